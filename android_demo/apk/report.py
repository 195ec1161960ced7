"""What the checks found, for people."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def show(report: Json) -> None:
    """Checks, sizes by part and ABI; loudly, when the APK has no native code."""
    for check in report["checks"]:
        print(f"{'holds ' if check['holds'] else 'FAILED'}  {check['name']}")
        for problem in check["problems"][:20]:
            print(f"          {problem}")
    sizes = report["sizes"]
    print(f"\n{'part':<28}{'KB':>9}")
    for part in ("code", "resources", "bundle"):
        print(f"{part:<28}{sizes[part] / 1e3:>9.0f}")
    for abi, libraries in sizes["native"].items():
        print(f"{'native, ' + abi:<28}{sum(libraries.values()) / 1e3:>9.0f}")
    print(f"{'APK, signed':<28}{sizes['apk'] / 1e3:>9.0f}   (limit {sizes['limit'] / 1e3:.0f})")
    print(f"{'library jar, no engines':<28}{sizes['library'] / 1e3:>9.0f}")
    if not report["runs_models"]:
        print(
            f"\nNO NATIVE CODE for {', '.join(report['without_native_code'])}: this APK installs, and every run ends in one "
            "line that says that ONNX Runtime's library is missing. Give an AAR: make apk ONNXRUNTIME_AAR=FILE.aar\n"
            f"With it the APK grows by the library as it is: {(sizes['limit'] - sizes['apk']) / 1e6:.1f} MB are left for it."
        )
