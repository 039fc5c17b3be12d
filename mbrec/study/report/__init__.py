"""A run as one page of HTML that needs nothing else: `mbrec report RUN`.

Everything it reads is data: files of a run may come from anywhere, so nothing of them is composed,
instantiated or shown without being escaped.
"""
