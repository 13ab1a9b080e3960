"""Relations: OpenFGA's model text, and the check over it. Plain Python; tuples are read through a port.

text ──parse──▶ ModelSyntax ──validate──▶ Model        Model + TupleReader ──check──▶ Finding, with its reasons
"""
