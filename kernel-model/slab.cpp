// Slab caches: objects smaller than a page, packed.
//
//   page   |obj|obj|...|obj|   4096 / object_bytes slots, a bit each: in use or not
//
// S1  a page of the cache has at least one object in use.
#include <algorithm>
#include <bit>
#include <set>

#include "kernel-model/page_alloc.hpp"

namespace kexec_sim {
namespace {
constexpr u64 object_bytes_min = 8;
}  // namespace

struct SlabCache::Impl {
    struct Slab {
        std::array<u64, page_bytes / object_bytes_min / 64> used{};
        u64 count = 0;
    };
    PageAllocator& pages;
    Machine& machine;
    u64 object_bytes;
    std::string site;
    FrameClass frame_class;
    std::map<u64, Slab> slabs;  // by frame
    std::set<u64> with_room;

    u64 slots() const { return page_bytes / object_bytes; }
    u64 take_slot(Slab& slab) const {
        for (u64 word = 0;; ++word) {
            const u64 slot = word * 64 + static_cast<u64>(std::countr_one(slab.used[word]));
            if (slot >= (word + 1) * 64) continue;
            INVARIANT(slot < slots());
            slab.used[word] |= u64{1} << (slot & 63);
            ++slab.count;
            return slot;
        }
    }
};

SlabCache::SlabCache(PageAllocator& pages, Machine& machine, u64 object_bytes, std::string_view site,
                     FrameClass frame_class)
    : impl_(new Impl{pages, machine, object_bytes, std::string(site), frame_class, {}, {}}) {
    INVARIANT(std::has_single_bit(object_bytes));
    INVARIANT(object_bytes >= object_bytes_min && object_bytes <= page_bytes);
}

SlabCache::~SlabCache() = default;

Result<PhysAddr> SlabCache::alloc() {
    Impl& cache = *impl_;
    TRY(cache.machine.faults.check(FaultPoint::mm_slab_alloc, cache.site));
    bool fresh = false;
    if (cache.with_room.empty()) {
        AllocRequest request;
        request.site = cache.site;
        request.frame_class = cache.frame_class;
        const Folio folio = TRY(cache.pages.alloc_folio(request));
        cache.slabs.emplace(folio.pfn.raw, Impl::Slab{});
        cache.with_room.insert(folio.pfn.raw);
        fresh = true;
    }
    const u64 pfn = *cache.with_room.begin();
    Impl::Slab& slab = cache.slabs.at(pfn);
    const PhysAddr object = Pfn{pfn}.phys() + cache.take_slot(slab) * cache.object_bytes;
    if (slab.count == cache.slots()) cache.with_room.erase(pfn);
    if (!fresh) cache.machine.ram.zero(phys_range(object, cache.object_bytes));
    return object;
}

void SlabCache::free(PhysAddr object) {
    Impl& cache = *impl_;
    const u64 pfn = object.pfn().raw, slot = object.offset_in_page() / cache.object_bytes;
    const auto entry = cache.slabs.find(pfn);
    const u64 mask = u64{1} << (slot & 63);
    if (entry == cache.slabs.end() || object.offset_in_page() % cache.object_bytes != 0 ||
        !(entry->second.used[slot >> 6] & mask))
        return cache.pages.log().warn_on(
            fmt::format("BUG: kfree of {:#x}, which is no object of {}", object.raw, cache.site), false);
    Impl::Slab& slab = entry->second;
    slab.used[slot >> 6] &= ~mask;
    if (--slab.count == 0) {
        cache.slabs.erase(entry);
        cache.with_room.erase(pfn);
        cache.pages.free_folio({Pfn{pfn}, Order{0}});
    } else {
        cache.with_room.insert(pfn);
    }
}

u64 SlabCache::pages_used() const { return impl_->slabs.size(); }

}  // namespace kexec_sim
