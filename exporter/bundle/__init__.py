"""One file that an app loads: an artifact, its tokenizer and everything the app must know, checked on both ends.

``document`` says what is in ``bundle.json``, ``archive`` packs it, ``reading`` refuses what is wrong with one, in the
same words as the sample apps.
"""
