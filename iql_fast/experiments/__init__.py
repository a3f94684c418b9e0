"""The paper's own experiments: ``python -m iql_fast.experiments``."""
