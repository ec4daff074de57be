#include "machine/iommu/translation_cache.hpp"

#include <bit>

#include "machine/result.hpp"

namespace kexec_sim {

TranslationCache::TranslationCache(u64 slots, bool never_evict, std::pmr::memory_resource* memory)
    : never_evict_(never_evict),
      shift_(64 - static_cast<unsigned>(std::countr_zero(slots))),
      slots_(slots, memory),
      overflow_(memory) {
    INVARIANT(std::has_single_bit(slots));
    INVARIANT(slots >= 2);
}

const TranslationCache::Entry* TranslationCache::find_in_overflow(u64 key) const {
    const auto found = overflow_.find(key);
    return found == overflow_.end() ? nullptr : &found->second;
}

void TranslationCache::insert(const Entry& entry) {
    Entry& slot = slots_[slot_of(entry.key)];
    if (never_evict_ && slot.valid && slot.key != entry.key) {
        overflow_.insert_or_assign(entry.key, entry).first->second.valid = true;
        return;
    }
    if (!overflow_.empty()) overflow_.erase(entry.key);
    slot = entry;
    slot.valid = true;
}

void TranslationCache::drop(u64 key) {
    Entry& slot = slots_[slot_of(key)];
    if (slot.key == key) slot.valid = false;
    if (!overflow_.empty()) overflow_.erase(key);
}

void TranslationCache::drop_domain(u16 domain_id) {
    drop_where([&](const Entry& entry) { return entry.domain_id == domain_id; });
}

void TranslationCache::clear() {
    for (Entry& slot : slots_) slot.valid = false;
    overflow_.clear();
}

u64 TranslationCache::entries() const {
    u64 count = overflow_.size();
    for (const Entry& slot : slots_) count += slot.valid;
    return count;
}

}  // namespace kexec_sim
