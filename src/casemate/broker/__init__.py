"""The broker: holds secrets, and releases each to the launchers that its policies accept."""

from casemate.broker.run import BrokerConfig, run_broker

__all__ = ["BrokerConfig", "run_broker"]
