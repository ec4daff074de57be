// kho.* and reserve_mem.*: exported functions of the kernel, called by the bench as a test module would.
#include <algorithm>
#include <fmt/format.h>

#include "kho/fdt.hpp"
#include "sim/steps.hpp"

namespace kexec_sim::sim {
namespace {

constexpr std::string_view bench = "bench";

using Kind = BenchObject::Kind;

/// The object that a step names by one of folio, pages, vmalloc.
struct Named {
    std::string name;
    Kind kind = Kind::none;
};
Named named(const Step& step) {
    if (step.has("folio")) return {step.get_name("folio"), Kind::folio};
    if (step.has("pages")) return {step.get_name("pages"), Kind::pages};
    return {step.get_name("vmalloc"), Kind::vmalloc};
}

void set_fill(BenchObject& object, const Step& step) {
    if (!step.has("fill")) return;
    const Fill& fill = step.get_fill("fill");
    object.fill_kind = static_cast<u8>(fill.kind);
    object.fill_value = fill.value;
}

PfnRange frames_of(const BenchObject& object) { return pfn_range(PhysAddr{object.phys}.pfn(), object.count); }
Folio folio_of(const BenchObject& object) { return {PhysAddr{object.phys}.pfn(), Order{object.order}}; }

kho::VmallocDescriptor descriptor_of(const BenchObject& object) {
    return {PhysAddr{object.phys}, object.vmalloc_pages, object.vmalloc_flags, object.vmalloc_order};
}

/// The blocks of a vmalloc object that lives in this kernel.
const VmallocArea* area_of(KernelInstance& instance, const BenchObject& object) {
    if (object.generation != instance.machine.generation) return nullptr;
    return instance.kernel.vmalloc.find(object.vmalloc_address);
}

/// Names frames for the referee's messages.
void name_object(KernelInstance& instance, std::string_view name, PfnRange frames) {
    instance.machine.referee.name_frames(frames, name);
}

StepResult alloc(KernelInstance& instance, const Step& step) {
    const u64 order = step.get_u64("order");
    if (order > max_page_order) return Errno::einval;
    AllocRequest request{Order{static_cast<unsigned>(order)}, "bench.folio", FrameClass::bench};
    if (const auto node = step.find_u64("node")) {
        request.nid = Nid{static_cast<i32>(*node)};
        request.exact_nid = true;
        if (*node >= instance.machine.node_count) return Errno::einval;
    }
    const auto folio = instance.kernel.pages.alloc_folio(request);
    if (!folio) return folio.error();
    BenchObject object;
    object.kind = Kind::folio;
    object.phys = folio->pfn.phys().raw;
    object.order = static_cast<u8>(order);
    object.count = folio->order.pages();
    object.bytes = folio->order.bytes();
    object.generation = instance.machine.generation;
    set_fill(object, step);
    fill_ram(instance.machine.ram, folio->phys(), object.fill());
    instance.state.bind_bench(step.get_name("name"), object);
    name_object(instance, step.get_name("name"), folio->frames());
    return {};
}

Result<> preserve_run(KernelInstance& instance, PfnRange frames) {
    if (instance.kho.edition().preserve_pages)
        return instance.kho.preserve_pages(frames.begin, frames.pages(), bench);
    return instance.kho.preserve_phys(frames.begin.phys(), frames.pages() * page_bytes, bench);
}

Result<> preserve_vmalloc(KernelInstance& instance, BenchObject& object) {
    const VmallocArea* area = area_of(instance, object);
    if (!area) return fail(Errno::einval);
    const kho::VmallocDescriptor descriptor = TRY(instance.kho.preserve_vmalloc(*area, bench));
    object.phys = descriptor.first_chunk.raw;
    object.vmalloc_pages = descriptor.total_pages;
    object.vmalloc_flags = descriptor.flags;
    object.vmalloc_order = descriptor.order;
    return {};
}

Result<> preserve(KernelInstance& instance, BenchObject& object) {
    switch (object.kind) {
    case Kind::folio: TRY(instance.kho.preserve_folio(folio_of(object), bench)); break;
    case Kind::pages: TRY(preserve_run(instance, frames_of(object))); break;
    case Kind::vmalloc: TRY(preserve_vmalloc(instance, object)); break;
    case Kind::none:
    case Kind::reserve_mem:
    case Kind::subtree: return fail(Errno::einval);
    }
    object.preserved = true;
    return {};
}

Result<> unpreserve(KernelInstance& instance, BenchObject& object) {
    switch (object.kind) {
    case Kind::folio: TRY(instance.kho.unpreserve_folio(folio_of(object), bench)); break;
    case Kind::pages:
        TRY(instance.kho.unpreserve_phys(PhysAddr{object.phys}, object.count * page_bytes, bench));
        break;
    case Kind::vmalloc: return fail(Errno::eopnotsupp);  // no edition with vmalloc exports it
    case Kind::none:
    case Kind::reserve_mem:
    case Kind::subtree: return fail(Errno::einval);
    }
    object.preserved = false;
    return {};
}

Result<> restore(KernelInstance& instance, BenchObject& object) {
    switch (object.kind) {
    case Kind::folio: {
        const Folio folio = TRY(instance.kho.restore_folio(PhysAddr{object.phys}, bench, FrameClass::bench));
        object.order = folio.order.raw;
        break;
    }
    case Kind::pages:
        TRY(instance.kho.restore_pages(PhysAddr{object.phys}, object.count, bench, FrameClass::bench));
        break;
    case Kind::vmalloc: {
        const VmallocArea* area = TRY(instance.kho.restore_vmalloc(descriptor_of(object), bench, FrameClass::bench));
        object.vmalloc_address = area->address;
        break;
    }
    case Kind::none:
    case Kind::reserve_mem:
    case Kind::subtree: return fail(Errno::einval);
    }
    object.generation = instance.machine.generation;
    object.preserved = false;
    return {};
}

StepResult verify_vmalloc(KernelInstance& instance, const BenchObject& object, const Fill& fill) {
    const VmallocArea* area = area_of(instance, object);
    if (!area) return Errno::enoent;
    u64 offset = 0;
    for (const Pfn block : area->blocks) {
        const u64 bytes = std::min(area->order.bytes(), object.bytes - offset);
        if (const auto at = compare_ram(instance.machine.ram, phys_range(block.phys(), bytes), fill, offset))
            return StepResult::mismatch(difference_text(
                offset + *at, instance.machine.ram.read<u8>(block.phys() + *at), fill.byte_at(offset + *at)));
        offset += bytes;
        if (offset >= object.bytes) break;
    }
    return {};
}

StepResult verify(KernelInstance& instance, const BenchObject& object, const Step& step) {
    const Fill fill = step.has("fill") ? step.get_fill("fill") : object.fill();
    if (object.kind == Kind::vmalloc) return verify_vmalloc(instance, object, fill);
    if (const auto order = step.find_u64("order")) {
        const PageMap::Block block = instance.kernel.pages.block(PhysAddr{object.phys}.pfn());
        if (block.meta.state != PageState::folio || block.head.phys().raw != object.phys ||
            block.meta.order.raw != *order)
            return StepResult::mismatch(
                fmt::format("the block at {:#x} is no folio of order {}", object.phys, *order));
    }
    PhysRange range = phys_range(PhysAddr{object.phys}, object.bytes);
    const auto at = compare_ram(instance.machine.ram, range, fill);
    if (!at) return {};
    return StepResult::mismatch(
        difference_text(*at, instance.machine.ram.read<u8>(range.begin + *at), fill.byte_at(*at)));
}

StepResult free_object(KernelInstance& instance, BenchObject& object) {
    switch (object.kind) {
    case Kind::folio: instance.kernel.pages.free_folio(folio_of(object)); return {};
    case Kind::pages:
        if (object.order && object.generation == instance.machine.generation && !object.preserved) {
            const PageMap::Block block = instance.kernel.pages.block(PhysAddr{object.phys}.pfn());
            if (block.meta.order.raw == object.order) {
                instance.kernel.pages.free_folio(folio_of(object));
                return {};
            }
        }
        instance.kernel.pages.free_pages(frames_of(object));
        return {};
    case Kind::vmalloc:
        if (!area_of(instance, object)) return Errno::enoent;
        instance.kernel.vmalloc.free(object.vmalloc_address);
        object.vmalloc_address = 0;
        return {};
    case Kind::none:
    case Kind::reserve_mem:
    case Kind::subtree: return Errno::einval;
    }
    return {};
}

StepResult preserve_pages(KernelInstance& instance, const Step& step) {
    const u64 count = step.get_u64("count");
    if (count == 0) return Errno::einval;
    BenchObject object;
    object.kind = Kind::pages;
    object.count = count;
    object.bytes = count * page_bytes;
    object.generation = instance.machine.generation;
    if (const auto at = step.find_u64("at")) {
        object.phys = Pfn{*at}.phys().raw;
        if (!instance.machine.ram.contains(PhysAddr{object.phys}, object.bytes)) return Errno::einval;
        for (Pfn pfn = frames_of(object).begin; pfn < frames_of(object).end; pfn = pfn + 1)
            if (instance.kernel.pages.block(pfn).meta.state != PageState::free) return Errno::ebusy;
        instance.kernel.pages.adopt_pages(frames_of(object), "bench.pages", FrameClass::bench);
    } else {
        const Order order = order_for_bytes(object.bytes);
        if (order.raw > max_page_order) return Errno::enomem;
        const auto folio = instance.kernel.pages.alloc_folio({order, "bench.pages", FrameClass::bench});
        if (!folio) return folio.error();
        object.phys = folio->pfn.phys().raw;
        object.order = order.raw;
    }
    set_fill(object, step);
    fill_ram(instance.machine.ram, phys_range(PhysAddr{object.phys}, object.bytes), object.fill());
    name_object(instance, step.get_name("name"), frames_of(object));
    const auto result = preserve_run(instance, frames_of(object));
    object.preserved = result.has_value();
    if (result) {
        instance.state.bind_bench(step.get_name("name"), object);
    } else if (step.has("at")) {
        instance.kernel.pages.free_pages(frames_of(object));
    } else {
        instance.kernel.pages.free_folio(folio_of(object));
    }
    return result;
}

StepResult preserve_phys(KernelInstance& instance, const Step& step) {
    BenchObject* folio = instance.state.find_bench(step.get_name("folio"));
    if (!folio || folio->kind != Kind::folio) return Errno::einval;
    const u64 offset = step.get_u64("offset"), length = step.get_u64("length");
    if (offset > folio->bytes || length > folio->bytes - offset) return Errno::einval;
    const auto result = instance.kho.preserve_phys(PhysAddr{folio->phys} + offset, length, bench);
    if (result && length == folio->bytes) folio->preserved = true;
    return result;
}

StepResult preserve_vmalloc_step(KernelInstance& instance, const Step& step) {
    const auto area = instance.kernel.vmalloc.alloc(step.get_u64("size"), "bench.vmalloc", FrameClass::bench,
                                                    step.get_bool("huge"));
    if (!area) return area.error();
    BenchObject object;
    object.kind = Kind::vmalloc;
    object.bytes = step.get_u64("size");
    object.generation = instance.machine.generation;
    object.vmalloc_address = (*area)->address;
    object.order = (*area)->order.raw;
    set_fill(object, step);
    u64 offset = 0;
    const Fill fill = object.fill();
    std::vector<std::byte> buffer((*area)->order.bytes());
    for (const Pfn block : (*area)->blocks) {
        fill.write(offset, buffer);
        if (fill.kind != Fill::Kind::zero) instance.machine.ram.write_bytes(block.phys(), buffer);
        name_object(instance, step.get_name("name"), Folio{block, (*area)->order}.frames());
        offset += buffer.size();
    }
    const auto result = preserve_vmalloc(instance, object);
    if (!result) {
        instance.kernel.vmalloc.free(object.vmalloc_address);
        return result;
    }
    object.preserved = true;
    instance.state.bind_bench(step.get_name("name"), object);
    return {};
}

/// The bench's own tree: a page with an empty devicetree, preserved as its owner must.
StepResult add_subtree(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("name");
    const u64 bytes = align_up(step.get_u64("size"), page_bytes);
    if (bytes == 0) return Errno::einval;
    const Order order = order_for_bytes(bytes);
    if (order.raw > max_page_order) return Errno::enomem;
    const auto folio = instance.kernel.pages.alloc_folio({order, "bench.subtree", FrameClass::bench});
    if (!folio) return folio.error();
    write_bench_tree(instance.machine.ram, folio->phys());
    const auto undo = [&](Errno error) {
        instance.kernel.pages.free_folio(*folio);
        return StepResult(error);
    };
    if (instance.kho.edition().notifier_chain) {
        instance.bench_subtrees.push_back({name, *folio});
    } else if (const auto kept = instance.kho.preserve_folio(*folio, bench); !kept) {
        return undo(kept.error());
    } else if (const auto added = instance.kho.add_subtree(name, folio->pfn.phys()); !added) {
        static_cast<void>(instance.kho.unpreserve_folio(*folio, bench));
        return undo(added.error());
    }
    BenchObject object;
    object.kind = Kind::subtree;
    object.phys = folio->pfn.phys().raw;
    object.order = order.raw;
    object.count = order.pages();
    object.bytes = order.bytes();
    object.generation = instance.machine.generation;
    instance.state.bind_bench(name, object);
    name_object(instance, name, folio->frames());
    return {};
}

StepResult remove_subtree(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("name");
    const BenchObject* object = instance.state.find_bench(name);
    if (instance.kho.edition().notifier_chain)
        return std::erase_if(instance.bench_subtrees, [&](const auto& tree) { return tree.name == name; })
                   ? StepResult{}
                   : StepResult{Errno::eopnotsupp};
    if (!object || object->kind != Kind::subtree) return Errno::enoent;
    return instance.kho.remove_subtree(PhysAddr{object->phys});
}

StepResult expect_map(KernelInstance& instance, const Step& step) {
    const auto map = instance.kho.map_statistics();
    return map ? compare_map(*map, step) : StepResult{map.error()};
}

StepResult debugfs(KernelInstance& instance, const Step& step) {
    const std::string path = "kho/" + step.get_text("file");
    const auto content = instance.kernel.vfs.read(path);
    if (!content) return content.error();
    instance.machine.trace.emit(Layer::sim, "debugfs.output",
                                {{"file", step.get_text("file")}, {"text", printable_blob(*content)}});
    if (!step.has("contains") || content->find(step.get_text("contains")) != std::string::npos) return {};
    return StepResult::mismatch(fmt::format("{} does not hold \"{}\"", path, step.get_text("contains")));
}

StepResult store_pointer(KernelInstance& instance, const Step& step) {
    const BenchObject* folio = instance.state.find_bench(step.get_name("folio"));
    const BenchObject* to = instance.state.find_bench(step.get_name("to"));
    if (!folio || !to) return Errno::enoent;
    const u64 offset = step.get_u64("offset");
    if (offset + 8 > folio->bytes || offset % 8) return Errno::einval;
    instance.machine.ram.write<u64>(PhysAddr{folio->phys + offset}, instance.kernel.phys_to_virt(PhysAddr{to->phys}));
    return {};
}

StepResult reserve_mem_find(KernelInstance& instance, const Step& step) {
    const std::string& name = step.get_name("name");
    const ReserveMem::Entry* entry = instance.kernel.reserve_mem.find(name);
    if (!entry) return Errno::enoent;
    if (const auto size = step.find_u64("size"); size && *size != entry->bytes)
        return StepResult::mismatch(fmt::format("'{}' has {} bytes, expected {}", name, entry->bytes, *size));
    const BenchObject* known = instance.state.find_bench(name);
    if (step.has("same_address")) {
        const bool same = known && known->phys == entry->range.begin.raw;
        if (same != step.get_bool("same_address"))
            return StepResult::mismatch(fmt::format("'{}' lies at {:#x}, {} where it was found before", name,
                                                    entry->range.begin.raw, same ? "the place" : "not the place"));
    }
    BenchObject object;
    object.kind = Kind::reserve_mem;
    object.phys = entry->range.begin.raw;
    object.bytes = entry->bytes;
    object.count = entry->bytes >> page_shift;
    object.generation = instance.machine.generation;
    instance.state.bind_bench(name, object);
    return {};
}

StepResult reserve_mem_content(KernelInstance& instance, const Step& step) {
    const ReserveMem::Entry* entry = instance.kernel.reserve_mem.find(step.get_name("name"));
    if (!entry) return Errno::enoent;
    const bool text = step.has("text");
    const Fill fill = text ? Fill{Fill::Kind::text, 0, step.get_text("text")} : step.get_fill("fill");
    const u64 offset = step.find_u64("offset").value_or(0);
    const u64 rest = entry->bytes > offset ? entry->bytes - offset : 0;
    const u64 length = text ? fill.text.size() : step.find_u64("length").value_or(rest);
    if (offset + length > entry->bytes) return Errno::einval;
    const u64 object_offset = text ? 0 : offset;
    const PhysRange range = phys_range(entry->range.begin + offset, length);
    PhysicalMemory& ram = instance.machine.ram;
    if (step.id == StepId::reserve_mem_write) {
        std::vector<std::byte> buffer(length);
        fill.write(object_offset, buffer);
        ram.write_bytes(range.begin, buffer);
        return {};
    }
    const auto at = compare_ram(ram, range, fill, object_offset);
    if (!at) return {};
    return StepResult::mismatch(
        difference_text(offset + *at, ram.read<u8>(range.begin + *at), fill.byte_at(object_offset + *at)));
}

StepResult on_object(KernelInstance& instance, const Step& step) {
    const Named name = named(step);
    BenchObject* object = instance.state.find_bench(name.name);
    if (!object || object->kind != name.kind) return Errno::enoent;
    switch (step.id) {
    case StepId::kho_preserve: return preserve(instance, *object);
    case StepId::kho_unpreserve: return unpreserve(instance, *object);
    case StepId::kho_restore: return restore(instance, *object);
    case StepId::kho_verify: return verify(instance, *object, step);
    default: INVARIANT(step.id == StepId::kho_free); return free_object(instance, *object);
    }
}

}  // namespace

StepResult compare_map(const kho::MapStatistics& map, const Step& step) {
    if (const auto folios = step.find_u64("folios"); folios && *folios != map.folios)
        return StepResult::mismatch(fmt::format("the map holds {} folios, expected {}", map.folios, *folios));
    if (const auto bytes = step.find_u64("bytes"); bytes && *bytes != map.bytes)
        return StepResult::mismatch(fmt::format("the map holds {} bytes, expected {}", map.bytes, *bytes));
    if (!step.has("orders")) return {};
    for (const auto& [order, count] : step.get_orders("orders")) {
        const auto at = map.orders.find(static_cast<unsigned>(order));
        const u64 found = at == map.orders.end() ? 0 : at->second;
        if (found != count)
            return StepResult::mismatch(
                fmt::format("the map holds {} blocks of order {}, expected {}", found, order, count));
    }
    return {};
}

StepResult run_kho_step(KernelInstance& instance, const Step& step) {
    switch (step.id) {
    case StepId::kho_alloc: return alloc(instance, step);
    case StepId::kho_preserve_pages: return preserve_pages(instance, step);
    case StepId::kho_preserve_phys: return preserve_phys(instance, step);
    case StepId::kho_preserve_vmalloc: return preserve_vmalloc_step(instance, step);
    case StepId::kho_store_pointer: return store_pointer(instance, step);
    case StepId::kho_add_subtree: return add_subtree(instance, step);
    case StepId::kho_remove_subtree: return remove_subtree(instance, step);
    case StepId::kho_retrieve_subtree: {
        const auto phys = instance.kho.retrieve_subtree(step.get_name("name"));
        if (!phys) return phys.error();
        // The bench has read its tree; that is all it wants of it.
        if (const BenchObject* tree = instance.state.find_bench(step.get_name("name")))
            instance.machine.referee.kho_retrieved(frames_of(*tree), bench);
        return {};
    }
    case StepId::kho_finalize: return instance.kho.finalize();
    case StepId::kho_abort: return instance.kho.abort();
    case StepId::kho_expect_map: return expect_map(instance, step);
    case StepId::kho_debugfs: return debugfs(instance, step);
    case StepId::reserve_mem_find: return reserve_mem_find(instance, step);
    case StepId::reserve_mem_write:
    case StepId::reserve_mem_verify: return reserve_mem_content(instance, step);
    default: return on_object(instance, step);
    }
}

}  // namespace kexec_sim::sim
