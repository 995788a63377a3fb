"""The optimizers' classes: one rule, or one family of rules, per file."""
