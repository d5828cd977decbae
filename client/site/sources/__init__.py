"""Where a site's records are: files, folders and databases behind one interface.

Every kind of source gives a :class:`~cloister.client.site.sources.table.Table`: the names of its columns and
rows of named cells. What is a text, what is too large and what is refused is decided in one place for all
kinds (``cells``). Nothing is written anywhere and nothing is asked of any hub.
"""
