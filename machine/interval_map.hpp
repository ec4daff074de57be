// A map from frames to values, kept as intervals.
//
//   pfn   0        8       12            20
//         |--- a --|...gap.|----- b -----|         two nodes, however many frames
//
// Invariants: intervals do not overlap, none is empty, and neighbours that touch have different values (they would
// be one interval). A run of calls in address order costs O(1) each: the last interval is remembered and grows in
// place. Everything else costs O(log intervals) and the intervals that it replaces.
#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <memory_resource>

#include "machine/types.hpp"

namespace kexec_sim {

/// A value for maps that are sets.
struct Member {
    bool operator==(const Member&) const = default;
};

template <typename Value> class IntervalMap {
public:
    explicit IntervalMap(std::pmr::memory_resource* memory) : pieces_(memory) {}
    IntervalMap(const IntervalMap&) = delete;
    IntervalMap& operator=(const IntervalMap&) = delete;

    void assign(PfnRange range, const Value& value) {
        if (range.empty() || grow_last(range, value)) return;
        auto next = pieces_.upper_bound(range.begin.raw);
        if (next != pieces_.begin()) {
            const auto before = std::prev(next);
            if (before->second.end >= range.end.raw && before->second.value == value) return;
        }
        next = cut(range);
        u64 begin = range.begin.raw, end = range.end.raw;
        if (next != pieces_.end() && next->first == end && next->second.value == value) {
            end = next->second.end;
            next = pieces_.erase(next);
        }
        if (next != pieces_.begin()) {
            const auto before = std::prev(next);
            if (before->second.end == begin && before->second.value == value) {
                before->second.end = end;
                remember(before);
                return;
            }
        }
        remember(pieces_.emplace_hint(next, begin, Piece{end, value}));
    }

    void erase(PfnRange range) {
        if (!range.empty() && !pieces_.empty()) cut(range);
    }

    /// Calls `call`(PfnRange, const Value&) for every part of `range` that has a value, ascending. The map must not
    /// change meanwhile.
    template <typename Call> void visit(PfnRange range, Call&& call) const {
        if (range.empty() || pieces_.empty()) return;
        auto piece = pieces_.upper_bound(range.begin.raw);
        if (piece != pieces_.begin()) --piece;
        for (; piece != pieces_.end() && piece->first < range.end.raw; ++piece) {
            const u64 begin = std::max(piece->first, range.begin.raw),
                      end = std::min(piece->second.end, range.end.raw);
            if (begin < end) call(PfnRange{Pfn{begin}, Pfn{end}}, piece->second.value);
        }
    }
    template <typename Call> void visit_all(Call&& call) const {
        for (const auto& [begin, piece] : pieces_) call(PfnRange{Pfn{begin}, Pfn{piece.end}}, piece.value);
    }
    /// Calls `call`(PfnRange) for every part of `range` that has no value, ascending.
    template <typename Call> void visit_gaps(PfnRange range, Call&& call) const {
        Pfn at = range.begin;
        visit(range, [&](PfnRange part, const Value&) {
            if (at < part.begin) call(PfnRange{at, part.begin});
            at = part.end;
        });
        if (at < range.end) call(PfnRange{at, range.end});
    }

    const Value* find(Pfn pfn) const {
        auto piece = pieces_.upper_bound(pfn.raw);
        if (piece == pieces_.begin()) return nullptr;
        --piece;
        return pfn.raw < piece->second.end ? &piece->second.value : nullptr;
    }
    /// The same, and the whole interval that `pfn` lies in.
    const Value* find(Pfn pfn, PfnRange& interval) const {
        auto piece = pieces_.upper_bound(pfn.raw);
        if (piece == pieces_.begin()) return nullptr;
        --piece;
        if (pfn.raw >= piece->second.end) return nullptr;
        interval = {Pfn{piece->first}, Pfn{piece->second.end}};
        return &piece->second.value;
    }
    bool touches(PfnRange range) const {
        const auto next = pieces_.lower_bound(range.begin.raw);
        if (next != pieces_.end() && next->first < range.end.raw) return !range.empty();
        return !range.empty() && find(range.begin);
    }
    bool empty() const { return pieces_.empty(); }
    std::size_t intervals() const { return pieces_.size(); }
    u64 pages() const {
        u64 sum = 0;
        visit_all([&](PfnRange part, const Value&) { sum += part.pages(); });
        return sum;
    }
    void clear() {
        has_last_ = false;
        pieces_.clear();
    }
    void swap(IntervalMap& other) {
        has_last_ = other.has_last_ = false;
        pieces_.swap(other.pieces_);
    }

private:
    struct Piece {
        u64 end;
        Value value;
    };
    using Pieces = std::pmr::map<u64, Piece>;
    using Iterator = typename Pieces::iterator;

    void remember(Iterator piece) {
        last_ = piece;
        has_last_ = true;
    }

    /// The fast path: `range` continues the last interval, into a gap.
    bool grow_last(PfnRange range, const Value& value) {
        if (!has_last_ || last_->second.end != range.begin.raw || !(last_->second.value == value)) return false;
        const auto next = std::next(last_);
        if (next != pieces_.end() && next->first <= range.end.raw) return false;
        last_->second.end = range.end.raw;
        return true;
    }

    /// Leaves `range` without a value. Returns the first piece behind it.
    Iterator cut(PfnRange range) {
        has_last_ = false;
        auto piece = pieces_.lower_bound(range.begin.raw);
        if (piece != pieces_.begin()) {
            const auto before = std::prev(piece);
            const u64 old_end = before->second.end;
            if (old_end > range.begin.raw) {
                before->second.end = range.begin.raw;
                if (old_end > range.end.raw)
                    return pieces_.emplace_hint(piece, range.end.raw, Piece{old_end, before->second.value});
            }
        }
        while (piece != pieces_.end() && piece->first < range.end.raw) {
            const Piece rest = piece->second;
            piece = pieces_.erase(piece);
            if (rest.end > range.end.raw) return pieces_.emplace_hint(piece, range.end.raw, rest);
        }
        return piece;
    }

    Pieces pieces_;
    Iterator last_{};
    bool has_last_ = false;
};

}  // namespace kexec_sim
