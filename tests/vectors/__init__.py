"""Cases on which Python and the sample apps in other languages must agree, as JSON files beside this one.

``python -m tests.vectors.generate`` writes them: inputs are chosen here, outputs are what the exporter makes of them.
"""
