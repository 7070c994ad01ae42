"""Calibration: what the activations of a real text say about which weights matter, and the integers chosen with it.

``texts`` makes windows of tokens, ``run`` takes them through the graph stage by stage (its activations lie in files of
``activations``, what it learns of a linear's inputs in ``moments``), ``file`` keeps the result, ``imatrix`` is
llama.cpp's format of a part of it.
"""
