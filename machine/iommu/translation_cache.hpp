// A cache of translations: a table of `slots` entries, direct-mapped by a hash of the key, or one that never evicts.
//
//   key (context cache: source id; IOTLB: domain id and page)  ──hash──►  slot | key | value | domain id |
//
// With `never_evict` an entry that finds its slot taken goes to an overflow map, which is looked at after the slot.
// A key is in one of the two at most.
// Iteration (invalidation of a domain) goes over slots in order, so that nothing depends on addresses.
//
// Cost: find and insert O(1), invalidation of one key O(1), of a domain or of all O(slots).
#pragma once

#include <map>
#include <memory_resource>
#include <utility>
#include <vector>

#include "machine/types.hpp"

namespace kexec_sim {

class TranslationCache {
public:
    struct Entry {
        u64 key = 0;
        u64 low = 0, high = 0;  // what is cached: a context entry, or a page-table leaf and its size
        u16 domain_id = 0;
        bool valid = false;
    };
    /// `slots`: a power of two, 2 or more.
    TranslationCache(u64 slots, bool never_evict, std::pmr::memory_resource* memory);

    /// Valid until the next change of the cache.
    const Entry* find(u64 key) const {
        const Entry& slot = slots_[slot_of(key)];
        if (slot.key == key && slot.valid) [[likely]]
            return &slot;
        return overflow_.empty() ? nullptr : find_in_overflow(key);
    }
    void insert(const Entry& entry);
    void drop(u64 key);
    void drop_domain(u16 domain_id);
    /// Drops every entry that `doomed`(const Entry&) is true of.
    template <typename Doomed> void drop_where(Doomed&& doomed) {
        for (Entry& slot : slots_)
            if (slot.valid && doomed(std::as_const(slot))) slot.valid = false;
        std::erase_if(overflow_, [&](const auto& entry) { return doomed(entry.second); });
    }
    void clear();
    u64 entries() const;

private:
    u64 slot_of(u64 key) const { return key * 0x9e37'79b9'7f4a'7c15 >> shift_; }
    const Entry* find_in_overflow(u64 key) const;

    bool never_evict_;
    unsigned shift_;
    std::pmr::vector<Entry> slots_;
    std::pmr::map<u64, Entry> overflow_;
};

}  // namespace kexec_sim
