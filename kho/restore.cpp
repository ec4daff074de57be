// Restoring, behind the boundary of kho/api.cpp.
//
// memory_init left a marker in the metadata of every preserved head page. What a restore checks is what the editions
// have learned over time:
//
//                              6.16, luo-*                       6.18
//   marker                     order                             magic | order
//   page was not preserved     unnoticed: order 0 assumed        WARN once, nothing
//   restored before            unnoticed: the marker is still    nothing: the first restore cleared it
//                              there
//   not a head                 unnoticed: order 0 assumed        WARN once, nothing
//   order above 10             nothing                           nothing
//
// "Nothing" is NULL in the kernel and ENOENT here. What goes unnoticed tears the page out of whatever it belongs to;
// the referee sees that, this kernel does not. Source: Linux 6.16 and 6.18, kernel/kexec_handover.c:
// kho_restore_folio, kho_restore_pages, kho_retrieve_subtree.
#include "kho/abi/root_tree.hpp"
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

Result<Order> Kho::State::marker_order(Pfn pfn) {
    const PageMap::Block block = kernel.pages.block(pfn);
    if (block.meta.state == PageState::absent) return fail(Errno::enoent);
    u64 marker = block.head == pfn ? block.meta.private_data : 0;
    if (edition.page_magic) {
        if (block.meta.state != PageState::preserved) marker = 0;
        const u64 order = marker & 0xffffffff;
        if (marker >> 32 != edition.page_magic || order > max_page_order) {
            REACHED("kho.restore.no_marker");
            if (!warned_about_marker)
                kernel.log.warn_on(fmt::format("KHO: page {:#x} was not preserved as it is restored", pfn.phys().raw),
                                   true);
            warned_about_marker = true;
            return fail(Errno::enoent);
        }
        return Order{static_cast<unsigned>(order)};
    }
    if (block.meta.state == PageState::folio && block.head == pfn) {
        const auto stale = stale_markers.find(pfn);
        if (stale != stale_markers.end() && stale->second == block.meta.order) marker = stale->second.raw;
    }
    if (marker > max_page_order) return fail(Errno::enoent);
    return Order{static_cast<unsigned>(marker)};
}

PageAllocator::Adoption Kho::State::adoption() const {
    PageAllocator::Adoption how;
    how.tails = !kernel.config.mutant(Mutant::kb01);      // KB-01
    how.accounted = !kernel.config.mutant(Mutant::kb13);  // KB-13
    return how;
}

Result<Folio> Kho::State::restore_block(Pfn pfn, std::string_view who, FrameClass frame_class) {
    const auto order = marker_order(pfn);
    if (!order) {
        kernel.machine.referee.kho_restore_failed(pfn, who);
        return fail(order.error());
    }
    const Folio folio{pfn, *order};
    if (!edition.page_magic && order->raw > 0) stale_markers[pfn] = *order;
    // Told first: from adopt_folio() on the frames have an owner.
    kernel.machine.referee.kho_restored(folio, who);
    kernel.machine.trace.range(Layer::kho, "kho.restore", pfn, *order, 1, who);
    kernel.pages.adopt_folio(folio, who, frame_class, adoption());
    return folio;
}

Result<> Kho::State::restore_singles(PfnRange pages, std::string_view who, FrameClass frame_class, Pfn& next) {
    const FaultInjector::Run visits = machine.faults.check_many(FaultPoint::kho_restore, who, pages.pages());
    const PfnRange good = pfn_range(pages.begin, visits.good);
    for (Pfn pfn = good.begin; pfn < good.end; pfn = pfn + 1) machine.referee.kho_restored({pfn, Order{0}}, who);
    if (!good.empty()) {
        machine.trace.range(Layer::kho, "kho.restore", good.begin, Order{0}, good.pages(), who);
        kernel.pages.adopt_pages(good, who, frame_class, adoption());
    }
    next = good.end;
    if (good == pages) return {};
    machine.referee.kho_restore_failed(next, who);
    return fail(visits.error);
}

Result<PfnRange> Kho::State::restore_range(PfnRange range, std::string_view who, FrameClass frame_class) {
    for (Pfn pfn = range.begin; pfn < range.end;) {
        const Order order = Tracking::split_order(pfn, range.end);
        // The block's own marker decides how much comes back; the kernel splits it into single pages.
        const auto marked = marker_order(pfn);
        if (!marked) {
            kernel.machine.referee.kho_restore_failed(pfn, who);
            return fail(marked.error());
        }
        const Folio folio{pfn, *marked};
        kernel.machine.referee.kho_restored(folio, who, true);
        kernel.machine.trace.range(Layer::kho, "kho.restore", pfn, *marked, 1, who);
        // KB-09: that pages were asked for makes no difference.
        if (kernel.config.mutant(Mutant::kb09))
            kernel.pages.adopt_folio(folio, who, frame_class, adoption());
        else
            kernel.pages.adopt_pages(folio.frames(), who, frame_class, adoption());
        pfn = pfn + order.pages();
    }
    return range;
}

std::optional<FdtReader> Kho::State::incoming_tree() const {
    if (!in) return std::nullopt;
    auto tree = FdtReader::open(kernel.machine, in->fdt, in->fdt_bytes);
    if (!tree) return std::nullopt;
    return std::move(*tree);
}

}  // namespace kexec_sim::kho
