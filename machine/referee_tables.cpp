// Page tables of IOMMUs: are those of preserved devices kept, and left alone?
//
//   root[bus] ──► context[devfn] ──► top table ──► … ──► level 1
//
// The referee walks them itself, from the root pointer that software gave to the unit, when a device's file is
// promised and again before the jump; what it found (each page and its hash) is looked at once more at the jump, when
// user space is reached, and when the device leaves these tables for others. As a tree's shape follows from its content
// it need not be walked again to be compared.
//
//   1. a page that is not preserved when the kernel jumps (I2)            4. an entry of a device that is not
//   2. a page, or the device's own entries, with other content (I4)          preserved, at the jump (I5)
//   3. a page that the allocator got while a device walks it (I2, I7)     5. translation off, or another root table,
//                                                                            while a device is preserved (I1)
//   6. a device gets the domain id of tables that are still in use (I6)      7. a page that is freed before the unit was
//                                                                            told that the device has left it (I7):
//                                                                            dma.contained
//
// Of the root and context tables, which devices share, only the entries of the device count.
// Cost: a hash of each page a moment; 256 GiB in pages of 4 KiB are 131 k pages of tables, 512 MiB.
// A table that a device has left is free to go once the unit has dropped what it had cached: the context entry first,
// then the translations of its domain id. Invalidations of single pages do not count as the latter.
#include "machine/referee_device_books.hpp"

namespace kexec_sim {
namespace {

constexpr std::size_t pages_max = u64{1} << 21;  // 4 TiB in pages of 4 KiB; more is a tree that bites its tail

constexpr u64 level_entries = 512;

}  // namespace

/// One walk down a tree. What is outside RAM is noted, not followed.
class DeviceReferee::Books::Walk {
public:
    Walk(const PhysicalMemory& ram, TableTree& out) : ram_(ram), out_(out) {}
    void table(PhysAddr at, unsigned level) {
        if (!ram_.contains(at, page_bytes)) {
            if (!out_.outside) out_.outside = at.raw;
            return;
        }
        if (out_.pages.size() >= pages_max) return;
        out_.pages.push_back({at.pfn().raw, ram_.hash_range(pfn_range(at.pfn(), 1))});
        if (level == 1 || !ram_.written(at.pfn())) return;
        const std::byte* page = ram_.readable(at.pfn());
        for (u64 index = 0; index < level_entries; ++index) {
            u64 entry;
            std::memcpy(&entry, page + index * sizeof entry, sizeof entry);
            if (!(entry & (vtd::PTE_READ | vtd::PTE_WRITE)) || (entry & vtd::PTE_LARGE)) continue;
            table(PhysAddr{entry & vtd::PTE_ADDRESS}, level - 1);
        }
    }

private:
    const PhysicalMemory& ram_;
    TableTree& out_;
};

namespace {

bool same_entry(const auto& one, const auto& other) { return one.low == other.low && one.high == other.high; }

template <typename Entry> std::optional<Entry> entry_at(const PhysicalMemory& ram, PhysAddr table, u8 index) {
    const PhysAddr at = table + index * sizeof(Entry);
    if (!ram.contains(at, sizeof(Entry))) return std::nullopt;
    return ram.read<Entry>(at);
}

}  // namespace

std::optional<vtd::ContextEntry> DeviceReferee::Books::context_entry(u32 segment, Bdf source) const {
    const auto iommu = iommus.find(segment);
    if (iommu == iommus.end()) return std::nullopt;
    const auto root = entry_at<vtd::RootEntry>(machine.ram, iommu->second.root, source.bus());
    if (!root || !root->present()) return std::nullopt;
    return entry_at<vtd::ContextEntry>(machine.ram, root->context_table(), source.devfn());
}

void DeviceReferee::Books::read_tree(const DeviceBook& book, TableTree& out) {
    out.clear();
    const auto iommu = iommus.find(book.function.segment);
    if (iommu == iommus.end() || !iommu->second.on) return;
    out.known = true;
    out.segment = book.function.segment;
    out.source = book.function.requester_id();
    out.root = iommu->second.root;
    out.root_entry = entry_at<vtd::RootEntry>(machine.ram, out.root, out.source.bus()).value_or(vtd::RootEntry{});
    out.context = {};
    if (!out.root_entry.present()) return;
    out.context = entry_at<vtd::ContextEntry>(machine.ram, out.root_entry.context_table(), out.source.devfn())
                      .value_or(vtd::ContextEntry{});
    const bool has_tables = out.context.present() && out.context.type() != vtd::type_pass_through &&
                            out.context.width() >= vtd::width_3_levels && out.context.width() <= vtd::width_5_levels;
    if (!has_tables) return;
    Walk(machine.ram, out).table(out.context.top_table(), out.context.width() + 2);
    const auto less = [](const PageHash& a, const PageHash& b) { return a.pfn < b.pfn; };
    if (!std::is_sorted(out.pages.begin(), out.pages.end(), less))
        std::sort(out.pages.begin(), out.pages.end(), less);
}

void DeviceReferee::Books::compare_tree(DeviceBook& book, std::string_view since, std::string_view moment,
                                        bool entries_too) {
    const TableTree& tree = book.tree;
    if (!tree.known) return;
    FrameList changed;
    for (const PageHash& page : tree.pages)
        if (machine.ram.hash_range(pfn_range(Pfn{page.pfn}, 1)) != page.hash)
            changed.add(pfn_range(Pfn{page.pfn}, 1));
    if (!changed.empty())
        report(InvariantId::iommu_tables, CheckId::i4, book, changed,
               "frame {:#x} is a page table that {} walks; it has other content {} than it had {}", changed.first[0],
               book.name(), moment, since);
    if (!entries_too) return;
    const auto same = [](const auto& now, const auto& then) { return now && same_entry(*now, then); };
    FrameList frames;
    if (!same(entry_at<vtd::RootEntry>(machine.ram, tree.root, tree.source.bus()), tree.root_entry)) {
        frames.add(pfn_range(tree.root.pfn(), 1));
        report(InvariantId::iommu_tables, CheckId::i4, book, frames,
               "the root entry of bus {:#x}, in frame {:#x}, leads to {}; it has other content {} than it had {}",
               tree.source.bus(), frames.first[0], book.name(), moment, since);
    } else if (tree.root_entry.present() &&
               !same(entry_at<vtd::ContextEntry>(machine.ram, tree.root_entry.context_table(), tree.source.devfn()),
                     tree.context)) {
        frames.add(pfn_range(tree.root_entry.context_table().pfn(), 1));
        report(InvariantId::iommu_tables, CheckId::i4, book, frames,
               "the context entry of {}, in frame {:#x}, has other content {} than it had {}", book.name(),
               frames.first[0], moment, since);
    }
}

/// Before the jump: is every page that the device will walk preserved?
void DeviceReferee::Books::check_kept(DeviceBook& book) {
    const TableTree& tree = book.tree;
    if (!tree.known) return;
    if (!tree.root_entry.present() || !tree.context.present()) {
        // A device without a map needs no entry.
        if (book.holds)
            report(InvariantId::iommu_tables, CheckId::i4, book, {},
                   "{} is preserved, and attached to {}; at the jump it has no context entry", book.name(),
                   name_of(*book.holds));
        return;
    }
    if (tree.outside)
        report(InvariantId::iommu_tables, CheckId::i2, book, {},
               "{} is preserved; its tables lead to {:#x}, where there is no RAM", book.name(), *tree.outside);
    FrameList bare;
    const IntervalMap<Kept>& kept = referee.kept();
    const auto look_at = [&](PfnRange frames) { kept.visit_gaps(frames, [&](PfnRange gap) { bare.add(gap); }); };
    look_at(pfn_range(tree.root.pfn(), 1));
    look_at(pfn_range(tree.root_entry.context_table().pfn(), 1));
    for (std::size_t i = 0; i < tree.pages.size();) {
        const u64 begin = tree.pages[i].pfn;
        u64 end = begin + 1;
        for (++i; i < tree.pages.size() && tree.pages[i].pfn <= end; ++i) end = tree.pages[i].pfn + 1;
        look_at({Pfn{begin}, Pfn{end}});
    }
    if (!bare.empty())
        report(InvariantId::iommu_tables, CheckId::i2, book, bare,
               "frame {:#x} is a table that {} walks; it is not preserved, and the next kernel may use it",
               bare.first[0], book.name());
}

/// At the jump: what is not preserved must not be let through (check I5).
void DeviceReferee::Books::check_unpreserved_entries() {
    for (const auto& [segment, iommu] : iommus) {
        bool carried = false;
        for (const DeviceBook* book : devices)
            carried = carried || (book && book->outgoing && book->function.segment == segment);
        if (!carried || !iommu.on) continue;
        for (unsigned bus = 0; bus < 256; ++bus) {
            const auto root = entry_at<vtd::RootEntry>(machine.ram, iommu.root, static_cast<u8>(bus));
            if (!root || !root->present()) continue;
            bool stranger = false;
            for (unsigned devfn = 0; devfn < 256; ++devfn) {
                const auto context =
                    entry_at<vtd::ContextEntry>(machine.ram, root->context_table(), static_cast<u8>(devfn));
                if (!context || !context->present()) continue;
                const Bdf source(bus, devfn);
                const DeviceBook* owner = nullptr;
                for (const DeviceBook* book : devices)
                    if (book && book->function.segment == segment && book->function.requester_id() == source &&
                        (!owner || book->outgoing))
                        owner = book;
                if (owner && owner->outgoing) continue;
                // A table of garbage has an entry for everybody: the first that no device has speaks for them all.
                if (!owner && std::exchange(stranger, true)) continue;
                const std::pmr::string name =
                    owner ? text_of(owner->name())
                          : referee.text("{:04x}:{:02x}:{:02x}.{}", segment, bus, source.device(), source.function());
                FrameList frames;
                frames.add(pfn_range(root->context_table().pfn(), 1));
                referee.report(InvariantId::iommu_tables, CheckId::i5, name, frames,
                               "{} is not preserved; at the jump its context entry, in frame {:#x}, is still present",
                               name, frames.first[0]);
            }
        }
    }
}

/// A device was attached: does it share the id of a domain that is not its own (check I6)?
void DeviceReferee::Books::check_domain_id(DeviceBook& book) {
    const auto context = context_entry(book.function.segment, book.function.requester_id());
    if (!context || !context->present()) return;
    for (DeviceBook* other : devices) {
        if (!other || other == &book || !other->incoming) continue;
        const TableTree& tree = other->inherited_tables();
        if (!tree.known || !tree.context.present() || other->function.segment != book.function.segment) continue;
        if (tree.context.domain_id() != context->domain_id()) continue;
        report(InvariantId::iommu_tables, CheckId::i6, book, {},
               "domain id {} is that of the tables that {} came with, which the unit has not forgotten; {} was given "
               "it for another domain",
               context->domain_id(), other->name(), book.name());
    }
}

// --- The allocator -----------------------------------------------------------------------------------------------

void DeviceReferee::Books::rebuild_table_frames() {
    table_frames.clear();
    for (const DeviceBook* book : devices) {
        if (!book) continue;
        const TableTree& tree = book->inherited_tables();
        if ((book->outgoing && !book->left.known) || !tree.known || !tree.context.present()) continue;
        const u16 index = book->function.index;
        for (const PageHash& page : tree.pages) table_frames.assign(pfn_range(Pfn{page.pfn}, 1), index);
        if (book->left.known) continue;
        table_frames.assign(pfn_range(tree.root.pfn(), 1), index);
        table_frames.assign(pfn_range(tree.root_entry.context_table().pfn(), 1), index);
    }
}

/// Attached elsewhere: the old tables may be freed once the unit has forgotten them.
void DeviceReferee::Books::leave_tables(DeviceBook& book) {
    if (!book.unit_forgot()) book.left.swap(book.tree);
    book.tree.clear();
    rebuild_table_frames();
}

void DeviceReferee::Books::table_frames_gone(PfnRange frames, std::string_view site, bool returned) {
    if (!table_frames.touches(frames)) return;
    std::pmr::map<u16, FrameList> gone(memory);
    table_frames.visit(frames, [&](PfnRange part, u16 index) { gone[index].add(part); });
    for (const auto& [index, list] : gone) {
        const DeviceBook& book = *devices[index];
        const bool left = book.left.known;
        const auto context = context_entry(book.function.segment, book.function.requester_id());
        // Blocked, or moved to other tables: it walks these no more once the unit has forgotten them.
        const bool walks = !left && context && same_entry(*context, book.tree.context);
        if (!walks && book.unit_forgot()) continue;
        const std::pmr::string why =
            walks ? text_of("still walks")
                  : referee.text("has left; the unit was not told to drop {} of them",
                                 book.context_dropped ? "its translations" : "the context entry that it has cached");
        // Where a device that walks what is free will write, nobody knows.
        const InvariantId id = walks ? InvariantId::iommu_tables : InvariantId::dma_contained;
        const CheckId check = walks ? CheckId::i2 : CheckId::i7;
        if (returned)
            report(id, check, book, list,
                   "frame {:#x} is a table that {} came with and {}; generation {} gave it to its allocator",
                   list.first[0], book.name(), why, referee.kernel->generation);
        else
            report(InvariantId::iommu_tables, check, book, list,
                   "frame {:#x} is a table that {} came with and {}; generation {}'s allocator handed it out to {}",
                   list.first[0], book.name(), why, referee.kernel->generation, site);
    }
}

// --- The unit ----------------------------------------------------------------------------------------------------

void DeviceReferee::translation_switched(u32 segment, bool on) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    IommuBook& iommu = books.iommus[segment];
    if (iommu.on == on) return;
    iommu.on = on;
    if (on) return;
    for (DeviceBook* book : books.devices)
        if (book && book->preserved() && book->function.segment == segment)
            books.report(InvariantId::iommu_tables, CheckId::i1, *book, {},
                         "{} is preserved; translation was switched off in segment {}: what it sends passes as it is",
                         book->name(), segment);
}

void DeviceReferee::root_table_set(u32 segment, PhysAddr root) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    Books& books = *books_;
    IommuBook& iommu = books.iommus[segment];
    const PhysAddr table{align_down(root.raw, page_bytes)}, before = iommu.root;
    iommu.root = table;
    if (before == table) return;
    FrameList frames;
    frames.add(pfn_range(table.pfn(), 1));
    for (DeviceBook* book : books.devices)
        // A function without a context entry reaches nothing under this root table nor under that one.
        if (book && book->preserved() && book->tree.known && book->tree.context.present() &&
            book->function.segment == segment)
            books.report(InvariantId::iommu_tables, CheckId::i1, *book, frames,
                         "{} is preserved, under the root table at {:#x}; the unit of segment {} was given another "
                         "one, at {:#x}",
                         book->name(), before.raw, segment, table.raw);
}

void DeviceReferee::cache_invalidated(u32 segment, const Invalidation& what) {
    if (!books_->machine.referee.attached) return;
    const MachineEntry entry;
    for (DeviceBook* book : books_->devices) {
        if (!book || book->function.segment != segment) continue;
        const TableTree& tree = book->inherited_tables();
        if (!tree.known || (what.domain_id && *what.domain_id != tree.context.domain_id())) continue;
        if (!what.contexts) {
            book->iotlb_dropped = book->context_dropped;
        } else if (!what.source || !((what.source->raw ^ tree.source.raw) & ~what.ignored)) {
            // What is dropped before the entry changes comes back with the next walk.
            const auto now = books_->context_entry(segment, tree.source);
            if (!now || !same_entry(*now, tree.context)) book->context_dropped = true;
        }
        if (book->left.known && book->unit_forgot()) {
            book->left.clear();
            books_->rebuild_table_frames();
        }
    }
}

}  // namespace kexec_sim
