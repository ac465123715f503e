"""Roots as earlier versions of this software wrote them, one folder a version; `make.py` made them."""

import os

OLD_ROOTS = os.path.dirname(os.path.abspath(__file__))
