"""The results of the founding slides, made again from JSON records: `licm reproduce`."""
