"""How exact the ops are, measured against 150-digit arithmetic and beside other libraries.

``python -m hdrm.accuracy`` prints the table and draws the pictures of docs/numerics.md. It needs
``pip install -e ".[docs]"`` (mpmath, matplotlib); nothing else in the package imports it.
"""
