"""TensorFlow, without its talk.

Its log says which operation failed and on what, and that may be what a client sent. The library
looks at the variable when it is loaded.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

__all__ = ["tf"]
