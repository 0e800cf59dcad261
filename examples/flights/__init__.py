"""The main demonstration: a classifier trained on 336,776 flights while its data are re-sharded under it."""
