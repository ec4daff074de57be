// A cache of translations: a table of `slots` entries, direct-mapped by a hash of the key, or one that never evicts.
//
//   key (context cache: source id; IOTLB: domain id and page)  ──hash──►  slot | key | value | domain id |
//
// With `never_evict` an entry that finds its slot taken goes to an overflow map, which is looked at after the slot.
// Iteration (invalidation of a domain) goes over slots in order, so that nothing depends on addresses.
//
// Cost: find and insert O(1), invalidation of one key O(1), of a domain or of all O(slots).
#pragma once

#include <map>
#include <memory_resource>
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
    /// `slots`: a power of two.
    TranslationCache(u64 slots, bool never_evict, std::pmr::memory_resource* memory);
    const Entry* find(u64 key) const;
    void insert(const Entry& entry);
    void drop(u64 key);
    void drop_domain(u16 domain_id);
    void clear();
    u64 entries() const;

private:
    bool never_evict_;
    std::pmr::vector<Entry> slots_;
    std::pmr::map<u64, Entry> overflow_;
};

}  // namespace kexec_sim
