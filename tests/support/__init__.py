"""What tests share: servers that misbehave, result files made to order, processes to be killed, a browser."""

from pathlib import Path

TESTS = Path(__file__).parents[1]
CHECKOUT = TESTS.parent
DATA = TESTS / "data"
SAMPLES = DATA / "samples"
SUPPORT = TESTS / "support"
FAULTY_SERVER = SUPPORT / "faulty_server.py"
#: a tokenizer in which each byte is a token
BYTE_TOKENIZER = DATA / "byte-tokenizer"
