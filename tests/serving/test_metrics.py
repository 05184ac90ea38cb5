"""Counters and histograms, as Prometheus reads them."""

import re

from casemate.serving.metrics import PrometheusMetrics
from casemate.serving.status import Code


def latency(metrics, what):
    name = f":tensorflow:serving:request_latency_{what}"
    return float(re.search(rf"^{name}{{.*}} (.*)$", metrics.page().decode(), re.M)[1])


def test_a_sum_shows_each_request_however_many_there_were():
    metrics = PrometheusMetrics()
    metrics.answered("m", "Predict", "GRPC", Code.OK, 1e7)  # a server's first months
    before = latency(metrics, "sum")
    metrics.answered("m", "Predict", "GRPC", Code.OK, 0.002)
    assert round(latency(metrics, "sum") - before) == 2000
    assert latency(metrics, "count") == 2
