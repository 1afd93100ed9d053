"""Loads a dashboard with Grafana's Foundation SDK. The SDK must know every key in the file, and every panel must have
a Prometheus query. Prints the queries as recording rules, for `promtool check rules`."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from grafana_foundation_sdk.models.prometheus import Dataquery


def differences(written, known, path="dashboard"):
    """Returns the paths of values that differ after the SDK has read and written the dashboard."""
    if isinstance(written, dict) and isinstance(known, dict):
        return [name for key, value in written.items() for name in differences(value, known.get(key), f"{path}.{key}")]
    if isinstance(written, list) and isinstance(known, list) and len(written) == len(known):
        return [name for at, pair in enumerate(zip(written, known)) for name in differences(*pair, f"{path}[{at}]")]
    return [] if written == known else [path]


register_default_plugins()
with open(sys.argv[1], encoding="utf-8") as file:
    written = json.load(file)
dashboard = Dashboard.from_json(written)
unknown = differences(written, json.loads(JSONEncoder().encode(dashboard)))
assert not unknown, f"unknown to Grafana, or in another format: {unknown}"
assert len(dashboard.panels) > 8

queries = [query for panel in dashboard.panels for query in panel.targets]
assert all(panel.targets for panel in dashboard.panels) and all(isinstance(query, Dataquery) for query in queries)
texts = [query.expr.replace("$__rate_interval", "1m").replace("$instance", ".*") for query in queries]
assert not any("$" in text for text in texts), texts
rules = [{"record": f"dashboard:query:{at}", "expr": text} for at, text in enumerate(texts)]
print(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
