"""Reports: one self-contained page about one run or several side by side.

``write({"aligned": "runs/aligned", "unaligned": "runs/unaligned"}, "report.html")``; needs matplotlib and
pyarrow (``pip install 'fastcomb[cli]'``).
"""

from fastcomb.report.writer import Report, write

__all__ = ["Report", "write"]
