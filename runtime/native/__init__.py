"""ExecuTorch without torch: a small C++ library over the wheel's own headers and libraries, built at first use."""
