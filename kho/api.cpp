// The exported functions of KHO: the boundary between whoever calls and what KHO does.
//
// Each goes the same way: 1. does this kernel export it (EOPNOTSUPP); 2. the fault point of the call; 3. the work; 4.
// on success, and only then, the instruments learn of the intent from the arguments, never from what the work wrote.
// So a line of KHO that forgets to write something cannot make the referee forget it too.
//
// A planned `skip` returns success without the work, `lie` does the work and returns an errno. Both are told as the
// caller sees them.
#include <algorithm>

#include "kho/abi/root_tree.hpp"
#include "kho/state.hpp"

namespace kexec_sim::kho {

namespace {

constexpr Result<> not_exported() { return std::unexpected<Errno>(Errno::eopnotsupp); }

void tell_failure(Machine& machine, std::string_view name, PhysAddr phys, std::string_view who, Result<> result) {
    machine.trace.emit(Layer::kho, name, {{"phys", phys}, {"who", who}, result_field(result)});
}

/// The frames of an area, in the order of its addresses.
std::vector<PfnRange> frames_of(const VmallocArea& area) {
    std::vector<PfnRange> frames;
    for (const Pfn block : area.blocks) {
        if (!frames.empty() && frames.back().end == block)
            frames.back().end = block + area.order.pages();
        else
            frames.push_back(pfn_range(block, area.order.pages()));
    }
    return frames;
}

}  // namespace

// --- preserve
// -------------------------------------------------------------------------------------------------------------

// Most folios share a bitmap with the one before, and nothing is remembered if anything could refuse this one. Both
// ways on are the last call of this function, so that the common way needs no stack.
Result<> Kho::preserve_folio(Folio folio, std::string_view who, bool metadata) {
    const Machine& machine = state_->machine;
    if (machine.faults.watches(FaultPoint::kho_preserve) || !state_->tracking.set_again(folio.pfn, folio.order))
        [[unlikely]]
        return preserve_folio_slowly(folio, who, metadata);
    if (machine.referee.attached || machine.trace.attached) return tell_preserved(folio, who, metadata);
    return {};
}

Result<> Kho::preserve_folio_slowly(Folio folio, std::string_view who, bool metadata) {
    Machine& machine = state_->machine;
    const auto result =
        under_fault(machine.faults, FaultPoint::kho_preserve, who, [&] { return state_->preserve_block(folio); });
    if (result) return tell_preserved(folio, who, metadata);
    tell_failure(machine, "kho.preserve_failed", folio.pfn.phys(), who, result);
    return result;
}

Result<> Kho::tell_preserved(Folio folio, std::string_view who, bool metadata) {
    Machine& machine = state_->machine;
    machine.referee.kho_preserved({folio.frames(), folio.order, who, metadata});
    machine.trace.range(Layer::kho, "kho.preserve", folio.pfn, folio.order, 1, who);
    return {};
}

Result<> Kho::preserve_folios(PfnRange run, std::string_view who, bool metadata, u64* preserved) {
    Machine& machine = state_->machine;
    const Order order{0};
    u64 done = 0;
    Result<> result;
    // Visit by visit where a fault is due, at one go between faults.
    while (result && done < run.pages()) {
        const auto hit = machine.faults.visit_many(FaultPoint::kho_preserve, who, run.pages() - done);
        const u64 clean = hit ? hit->index : run.pages() - done;
        const Tracking::Run set = state_->preserve_run(pfn_range(run.begin + done, clean));
        done += set.done;
        if (set.done < clean) result = fail(set.error);
        if (!result || !hit) continue;
        const Folio folio{run.begin + done, order};
        switch (hit->action.kind) {
        case FaultKind::fail: result = fail(hit->action.error); break;
        case FaultKind::skip: ++done; break;
        case FaultKind::lie:
            result = state_->preserve_block(folio);
            if (result) result = fail(hit->action.error);
            break;
        default:
            result = state_->preserve_block(folio);
            if (result) ++done;
        }
    }
    if (done) {
        machine.referee.kho_preserved({pfn_range(run.begin, done), order, who, metadata});
        machine.trace.range(Layer::kho, "kho.preserve", run.begin, order, done, who);
    }
    if (!result) tell_failure(machine, "kho.preserve_failed", (run.begin + done).phys(), who, result);
    if (preserved) *preserved = done;
    return result;
}

Result<> Kho::preserve_phys(PhysAddr phys, u64 bytes, std::string_view who, bool metadata) {
    if (!state_->edition.preserve_phys) return not_exported();
    Machine& machine = state_->machine;
    const auto result = under_fault(machine.faults, FaultPoint::kho_preserve, who, [&]() -> Result<> {
        if (state_->finalized) return fail(Errno::ebusy);
        if (!phys.page_aligned()) return fail(Errno::einval);
        if (bytes % page_bytes) return fail(Errno::einval);
        return state_->preserve_range({phys.pfn(), (phys + bytes).pfn()});
    });
    if (!result) {
        tell_failure(machine, "kho.preserve_failed", phys, who, result);
        return result;
    }
    if (bytes == 0) return {};
    machine.referee.kho_preserved({{phys.pfn(), (phys + bytes).pfn()}, std::nullopt, who, metadata});
    machine.trace.range(Layer::kho, "kho.preserve", phys.pfn(), Order{0}, bytes >> page_shift, who);
    return {};
}

Result<> Kho::preserve_pages(Pfn pfn, u64 count, std::string_view who, bool metadata) {
    if (!state_->edition.preserve_pages) return not_exported();
    Machine& machine = state_->machine;
    const PfnRange range = pfn_range(pfn, count);
    const auto result =
        under_fault(machine.faults, FaultPoint::kho_preserve, who, [&] { return state_->preserve_range(range); });
    if (!result) {
        tell_failure(machine, "kho.preserve_failed", pfn.phys(), who, result);
        return result;
    }
    if (count == 0) return {};
    machine.referee.kho_preserved({range, std::nullopt, who, metadata});
    machine.trace.range(Layer::kho, "kho.preserve", pfn, Order{0}, count, who);
    return {};
}

Result<VmallocDescriptor> Kho::preserve_vmalloc(const VmallocArea& area, std::string_view who, bool metadata) {
    if (!state_->configured || !state_->edition.vmalloc) return fail(Errno::eopnotsupp);
    Machine& machine = state_->machine;
    std::vector<Pfn> chunks;
    VmallocDescriptor descriptor;
    const auto result = under_fault(machine.faults, FaultPoint::kho_preserve, who, [&]() -> Result<> {
        if (state_->kernel.vmalloc.find(area.address) == nullptr) return fail(Errno::einval);
        descriptor = TRY(state_->describe_vmalloc(area, chunks));
        return {};
    });
    if (!result) {
        machine.trace.emit(Layer::kho, "kho.preserve_failed",
                           {hex_field("address", area.address), {"who", who}, result_field(result)});
        return fail(result.error());
    }
    machine.referee.area_preserved(descriptor.first_chunk.pfn(), frames_of(area));
    for (const Pfn block : area.blocks) {
        machine.referee.kho_preserved({pfn_range(block, area.order.pages()), std::nullopt, who, metadata});
        machine.trace.range(Layer::kho, "kho.preserve", block, area.order, 1, who);
    }
    for (const Pfn chunk : chunks) {
        machine.referee.kho_preserved({pfn_range(chunk, 1), std::nullopt, who, true});
        machine.trace.range(Layer::kho, "kho.preserve", chunk, Order{0}, 1, who);
    }
    return descriptor;
}

// --- unpreserve
// -----------------------------------------------------------------------------------------------------------

Result<> Kho::unpreserve_folio(Folio folio, std::string_view who) {
    if (!state_->configured || !state_->edition.unpreserve) return not_exported();
    if (state_->finalized) return fail(Errno::ebusy);
    Machine& machine = state_->machine;
    state_->tracking.clear_range(folio.frames());
    machine.referee.kho_unpreserved(folio.frames(), who);
    machine.trace.range(Layer::kho, "kho.unpreserve", folio.pfn, folio.order, 1, who);
    return {};
}

Result<> Kho::unpreserve_folios(PfnRange run, std::string_view who) {
    if (!state_->configured || !state_->edition.unpreserve) return not_exported();
    if (state_->finalized) return fail(Errno::ebusy);
    if (run.empty()) return {};
    Machine& machine = state_->machine;
    state_->tracking.clear_pages(run);
    machine.referee.kho_unpreserved(run, who);
    machine.trace.range(Layer::kho, "kho.unpreserve", run.begin, Order{0}, run.pages(), who);
    return {};
}

Result<> Kho::unpreserve_phys(PhysAddr phys, u64 bytes, std::string_view who) {
    if (!state_->configured || !state_->edition.unpreserve) return not_exported();
    if (state_->finalized) return fail(Errno::ebusy);
    if (!phys.page_aligned()) return fail(Errno::einval);
    if (bytes % page_bytes) return fail(Errno::einval);
    if (bytes == 0) return {};
    Machine& machine = state_->machine;
    const PfnRange range{phys.pfn(), (phys + bytes).pfn()};
    state_->tracking.clear_range(range);
    machine.referee.kho_unpreserved(range, who);
    machine.trace.range(Layer::kho, "kho.unpreserve", range.begin, Order{0}, range.pages(), who);
    return {};
}

// --- restore
// --------------------------------------------------------------------------------------------------------------

Result<Folio> Kho::restore_folio(PhysAddr phys, std::string_view who, FrameClass frame_class) {
    if (!state_->configured) return fail(Errno::enoent);  // NULL
    Machine& machine = state_->machine;
    if (const auto fault = machine.faults.check(FaultPoint::kho_restore, who); !fault) {
        machine.referee.kho_restore_failed(phys.pfn(), who);
        return fail(fault.error());
    }
    return state_->restore_block(phys.pfn(), who, frame_class);
}

Result<> Kho::restore_folios_run(PfnRange run, std::string_view who, FrameClass frame_class, u64* restored) {
    Pfn pfn = run.begin;
    Result<> result;
    while (result && pfn < run.end) {
        // Preserved single pages that are all alike come back at one go; anything else, one by one.
        const PageMap::Run alike = state_->kernel.pages.page_map().run_from(pfn, run.end);
        const bool singles = alike.meta.state == PageState::preserved && alike.meta.order == Order{0} &&
                             alike.meta.private_data == state_->edition.marker(Order{0});
        if (singles) {
            result = state_->restore_singles({pfn, std::min(alike.end(), run.end)}, who, frame_class, pfn);
            continue;
        }
        const auto folio = restore_folio(pfn.phys(), who, frame_class);
        if (!folio)
            result = fail(folio.error());
        else if (folio->order != Order{0})
            result = fail(Errno::einval);
        else
            pfn = pfn + 1;
    }
    if (restored) *restored = pfn - run.begin;
    return result;
}

Result<PfnRange> Kho::restore_pages(PhysAddr phys, u64 count, std::string_view who, FrameClass frame_class) {
    if (!state_->configured || !state_->edition.preserve_pages) return fail(Errno::eopnotsupp);
    Machine& machine = state_->machine;
    if (const auto fault = machine.faults.check(FaultPoint::kho_restore, who); !fault) {
        machine.referee.kho_restore_failed(phys.pfn(), who);
        return fail(fault.error());
    }
    return state_->restore_range(pfn_range(phys.pfn(), count), who, frame_class);
}

Result<const VmallocArea*> Kho::restore_vmalloc(const VmallocDescriptor& descriptor, std::string_view who,
                                                FrameClass frame_class) {
    if (!state_->configured || !state_->edition.vmalloc) return fail(Errno::eopnotsupp);
    Machine& machine = state_->machine;
    const auto fault = machine.faults.check(FaultPoint::kho_restore, who);
    if (!fault) {
        state_->tell_lost_vmalloc(descriptor, who);
        return fail(fault.error());
    }
    auto area = state_->rebuild_vmalloc(descriptor, who, frame_class);
    if (area)
        machine.referee.area_restored(descriptor.first_chunk.pfn(), frames_of(**area), who);
    else
        state_->tell_lost_vmalloc(descriptor, who);
    return area;
}

// --- sub-trees
// ------------------------------------------------------------------------------------------------------------

Result<> Kho::add_subtree(const std::string& name, PhysAddr fdt) {
    State& state = *state_;
    Machine& machine = state.machine;
    if (!state.configured) return not_exported();
    if (state.edition.notifier_chain && !state.in_finalize_notification) return fail(Errno::einval);
    const auto result = under_fault(machine.faults, FaultPoint::kho_add_subtree, name, [&]() -> Result<> {
        if (state.edition.notifier_chain) TRY(state.write_subtree(name, fdt));
        state.subtrees.push_back({name, fdt});
        state.publish_subtree(state.subtrees.back());
        return {};
    });
    machine.trace.emit(Layer::kho, "kho.add_subtree", {{"name", name}, {"phys", fdt}, result_field(result)});
    return result;
}

Result<> Kho::remove_subtree(PhysAddr fdt) {
    State& state = *state_;
    if (!state.configured || !state.edition.exported_control) return not_exported();
    const auto found = std::ranges::find(state.subtrees, fdt, &State::Subtree::fdt);
    if (found == state.subtrees.end()) return fail(Errno::enoent);
    state.withdraw_subtree(found->name);
    state.kernel.machine.trace.emit(Layer::kho, "kho.remove_subtree", {{"name", found->name}, {"phys", fdt}});
    state.subtrees.erase(found);
    return {};
}

Result<PhysAddr> Kho::retrieve_subtree(const std::string& name) {
    if (!state_->configured) return fail(Errno::eopnotsupp);
    const auto tree = state_->incoming_tree();
    if (!tree) return fail(Errno::enoent);
    const int node = tree->subnode(FdtReader::root, name);
    if (node < 0) return fail(Errno::enoent);
    const auto phys = tree->property_u64(node, abi::PROP_SUB_FDT);
    if (!phys) return fail(Errno::einval);
    state_->kernel.machine.trace.emit(Layer::kho, "kho.retrieve_subtree",
                                      {{"name", name}, {"phys", PhysAddr{*phys}}});
    return PhysAddr{*phys};
}

// --- control
// --------------------------------------------------------------------------------------------------------------

Result<> Kho::finalize() {
    Machine& machine = state_->machine;
    machine.trace.emit(Layer::kho, "kho.finalize", {}, Phase::begin);
    const bool by_itself = !machine.faults.doing();
    const auto result = [&] {
        const FaultInjector::Doing doing(machine.faults, "finalize");
        return state_->finalize();
    }();
    if (result) machine.referee.kho_finalized();
    if (result && by_itself) machine.faults.set_update_state("finalized");
    machine.trace.emit(Layer::kho, "kho.finalize",
                       {result_field(result),
                        {"folios", preserved_folios()},
                        {"bytes", preserved_bytes()},
                        {"map_pages", map_pages()}},
                       Phase::end);
    return result;
}

Result<> Kho::abort() {
    Machine& machine = state_->machine;
    machine.trace.emit(Layer::kho, "kho.abort", {}, Phase::begin);
    const bool by_itself = !machine.faults.doing();
    const auto result = [&] {
        const FaultInjector::Doing doing(machine.faults, "abort");
        return state_->abort();
    }();
    if (result && by_itself) machine.faults.set_update_state("normal");
    if (result) machine.referee.kho_aborted(state_->edition.abort_forgets_tracking);
    machine.trace.emit(Layer::kho, "kho.abort", {result_field(result)}, Phase::end);
    return result;
}

Result<u64> Kho::register_notifier(int priority, Notifier notifier) {
    State& state = *state_;
    if (!state.edition.notifier_chain) return fail(Errno::eopnotsupp);
    const auto at = std::ranges::find_if(state.chain, [&](const auto& entry) { return entry.priority < priority; });
    const u64 ticket = state.next_ticket++;
    state.chain.insert(at, {ticket, priority, std::move(notifier)});
    return ticket;
}

Result<> Kho::unregister_notifier(u64 ticket) {
    State& state = *state_;
    if (!state.edition.notifier_chain) return not_exported();
    const auto found = std::ranges::find(state.chain, ticket, &State::ChainEntry::ticket);
    if (found == state.chain.end()) return fail(Errno::enoent);
    state.chain.erase(found);
    return {};
}

}  // namespace kexec_sim::kho
