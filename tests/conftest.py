"""What every test starts from."""

import signal

# Whoever runs the suite in the background may have made it ignore Ctrl-C, and what it starts
# inherits that; here programs must heed it.
signal.signal(signal.SIGINT, signal.default_int_handler)
