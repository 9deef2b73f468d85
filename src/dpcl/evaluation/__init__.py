"""Metrics of separated sources, and the evaluation of separators on mixture lists."""
