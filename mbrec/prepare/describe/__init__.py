"""Drafts a data set's configuration from its Parquet files.

command   the command line: options, files written, tasks for the labels
layout    which files are trained on and which evaluated on
scan      what is read of them: footers, a sample of rows, all rows
profile   what is known about the data set and each column
names     what a column's name reveals
clock     columns that hold a time
labels    columns that are labels, and their rates
leaks     columns that give a label away
guess     what each column is used as; `scaling` for numbers
draft     the YAML with its comments
plots     the picture
"""
