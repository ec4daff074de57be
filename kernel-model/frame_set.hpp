// A set of frames without much order: one bit a frame, by section of 128 MiB.
//
//   section 16   |0100 1010 0000 …|  4 KiB        sections without a member do not exist
//
// For scattered frames, of which there may be millions; whoever has long ranges keeps ranges. Cost: O(log sections) a
// call, and a word for every 64 frames that it walks over.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>

#include "machine/types.hpp"

namespace kexec_sim {

class FrameSet {
public:
    void insert(PfnRange frames);
    void erase(PfnRange frames);
    bool empty() const { return sections_.empty(); }
    /// First member in the range, or its end.
    Pfn next_member(PfnRange frames) const;
    /// First frame in the range that is no member, or its end.
    Pfn next_gap(PfnRange frames) const;
    std::optional<Pfn> last_member(PfnRange frames) const;

private:
    static constexpr u64 section_shift = 15;
    static constexpr u64 section_pages = u64{1} << section_shift;
    struct Section {
        std::array<u64, section_pages / 64> words{};
        u64 members = 0;
    };
    std::map<u64, std::unique_ptr<Section>> sections_;
};

}  // namespace kexec_sim
