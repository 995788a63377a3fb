"""In what torch's optimizers differ from one another, beside their formulas."""

WITHOUT_STEP = {"SGD", "Muon"}  # torch's do not count their steps
ALWAYS_THERE = {"Adagrad"}  # torch's has its state before the first step; others make it in that step
OF_WHOLE = {"Adafactor", "LAMB", "LARS", "Muon"}  # look at all of a parameter at once
OF_MATRICES = {"Adafactor", "Muon"}  # look at rows and columns
# A step for a sparse gradient updates the rows that occur, as if the others had no gradient.
LAZY = {"Adagrad", "Adam", "AdamW", "RMSprop"}
