"""Training: what is learnt (objectives, tasks), what may change (trainable) and how (recipe, schedule, parallel, loop).

No Ray here: `jobs/train` feeds it rows and carries it over machines.
"""
