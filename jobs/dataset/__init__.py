"""The verbs that read a data set or a training file: show, verify, filter, export, validate, report, audit, pope."""
