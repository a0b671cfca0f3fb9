from collections.abc import Callable
from typing import Any

brotli: Any
bz2: Any
lzma: Any
zstd: Any

def encoders() -> list[str]: ...
def get_decoder(t: str) -> Callable[[Any], bytes]: ...
