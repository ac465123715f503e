import sys, tempfile, os

sys.argv = ["x"]
from tests.chaos import pairs, __main__ as m
from tests.chaos.pairs import Place
import tests.chaos.scenarios as s

folder = tempfile.mkdtemp(dir=".scratch")
print(folder)
m_make = [n for n in dir(m)]
print(m_make)
