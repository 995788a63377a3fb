#include "optim/sparse.hpp"

#include <algorithm>
#include <array>

namespace fastopt {

namespace {

constexpr std::size_t kFew = 64;  ///< places that are sorted by comparing them
constexpr std::size_t kDigit = 11;

using Place = SparseRows::Place;

/// Sorts by rows, stably: from the last digit on, as rows have few of them.
void sort(std::vector<Place>& places, std::vector<Place>& spare, std::size_t largest) {
  constexpr std::size_t kValues = std::size_t{1} << kDigit;
  spare.resize(places.size());
  for (std::size_t shift = 0; shift < 64 && largest >> shift != 0; shift += kDigit) {
    std::array<std::size_t, kValues> next{};
    for (const Place& place : places) ++next[place.row >> shift & (kValues - 1)];
    std::size_t before = 0;
    for (std::size_t& begin : next) {
      const std::size_t here = begin;
      begin = before;
      before += here;
    }
    for (const Place& place : places) spare[next[place.row >> shift & (kValues - 1)]++] = place;
    places.swap(spare);
  }
}

}  // namespace

void SparseRows::group() {
  std::size_t largest = 0;
  bool sorted = true;
  for (const Place& place : places) {
    sorted = sorted && place.row >= largest;
    largest = std::max(largest, place.row);
  }
  if (!sorted && places.size() <= kFew)
    std::stable_sort(places.begin(), places.end(), [](const Place& a, const Place& b) { return a.row < b.row; });
  else if (!sorted)
    sort(places, spare_, largest);
  first.clear();
  for (std::size_t i = 0; i < places.size(); ++i)
    if (i == 0 || places[i].row != places[i - 1].row) first.push_back(i);
  first.push_back(places.size());
}

}  // namespace fastopt
