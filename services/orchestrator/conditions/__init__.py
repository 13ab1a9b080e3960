"""What expressions in workflows mean: CEL and JSONPath, compiled once, pure, and bounded in what they may cost.

The only room that sees `cel-expr-python` and `python-jsonpath`. docs/workflows.md says what is allowed and why.
"""
