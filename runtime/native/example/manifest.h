// Just enough of a reader for the lists of integers in a bundle's manifest.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

using Ids = std::vector<int64_t>;

// The first integers in a text, separated by commas or spaces.
inline Ids integers(const std::string& text) {
  Ids found;
  const char* at = text.c_str() + std::min(text.find_first_of("0123456789"), text.size());
  while (*at >= '0' && *at <= '9') {
    char* end = nullptr;
    found.push_back(std::strtoll(at, &end, 10));
    for (at = end; *at == ',' || *at == ' ' || *at == '\n';) ++at;
  }
  return found;
}

// The number that follows a key of the manifest.
inline double real(const std::string& bundle, const std::string& key) {
  std::ifstream file(bundle + "/manifest.json");
  const std::string manifest{std::istreambuf_iterator<char>(file), {}};
  const size_t at = manifest.find('"' + key + '"');
  return at == std::string::npos ? 0 : std::strtod(manifest.c_str() + manifest.find(':', at) + 1, nullptr);
}

// What follows a key of the manifest; empty when there is no such key.
inline Ids setting(const std::string& bundle, const std::string& key) {
  std::ifstream file(bundle + "/manifest.json");
  const std::string manifest{std::istreambuf_iterator<char>(file), {}};
  const size_t at = manifest.find('"' + key + '"');
  return at == std::string::npos ? Ids{} : integers(manifest.substr(at + key.size() + 2, 4096));
}
