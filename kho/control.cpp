// Finalize and abort: from tracking in memory to a root tree that the next kernel can read, and back.
//
//   not finalized ──finalize──► finalized: every preserve is EBUSY, the tree page is valid
//                 ◄───abort────
//
// Finalize: 1. header, `compatible` and a placeholder for the map. 2. The root page is preserved. 3. 6.16, 6.18: the
// notifier chain is called with FINALIZE; consumers preserve memory and add sub-trees. 4. Tracking is serialized, its
// address goes into the placeholder. 5. luo-*: sub-trees are written from the list. 6. The tree is closed.
//
// Unhappy paths: any failure is "Failed to convert KHO state tree: <err>" and an abort; the caller gets the first
// error. Abort frees the chunks. 6.16 and 6.18 also forget all tracking, which loses what was preserved outside of the
// FINALIZE notification, and call the chain with ABORT, every member, also those that FINALIZE never reached. An error
// of that chain is "Failed to abort KHO finalization: <err>", and the state stays finalized.
//
// The chain: higher priority first, equals in order of registration; a member stops it with BAD (EPERM) or an errno.
// Source: Linux 6.16, kernel/kexec_handover.c: kho_finalize, kho_abort, kho_out_finalize_set; the LUO series.
#include <algorithm>

#include "kho/abi/root_tree.hpp"
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

Result<> Kho::State::write_fdt(std::string_view name, const std::function<int()>& write) {
    if (const auto action = kernel.machine.faults.visit(FaultPoint::kho_fdt_write, name)) {
        if (action->kind == FaultKind::fail) return fail(action->error);
        if (action->kind == FaultKind::skip) return {};
        if (action->kind == FaultKind::lie) {
            static_cast<void>(write());
            return fail(action->error);
        }
    }
    if (const int code = write()) return fail(fdt_errno(code));
    return {};
}

Result<> Kho::State::write_subtree(const std::string& name, PhysAddr fdt) {
    TRY(write_fdt(name, [&] { return writer->begin_node(name); }));
    auto property = write_fdt(abi::PROP_SUB_FDT, [&] { return writer->property_u64(abi::PROP_SUB_FDT, fdt.raw); });
    const int closed = writer->end_node();
    TRY(std::move(property));
    return closed ? Result<>(fail(fdt_errno(closed))) : Result<>();
}

Result<> Kho::State::write_root() {
    const auto code = [](int status) { return status ? Result<>(fail(fdt_errno(status))) : Result<>(); };
    TRY(code(writer->create()));
    TRY(code(writer->begin_node("")));
    TRY(write_fdt("compatible", [&] { return writer->property_text("compatible", abi::KHO_FDT_COMPATIBLE); }));
    PhysAddr map_at;
    TRY(write_fdt(abi::PROP_PRESERVED_MEMORY_MAP,
                  [&] { return writer->placeholder(abi::PROP_PRESERVED_MEMORY_MAP, sizeof(u64), map_at); }));

    const Folio page{root.pfn(), Order{0}};
    TRY(preserve_block(page));
    kernel.machine.referee.kho_preserved({page.frames(), page.order, kho_who});

    if (edition.notifier_chain) {
        in_finalize_notification = true;
        auto called = call_chain(NotifierAction::finalize);
        in_finalize_notification = false;
        TRY(std::move(called));
    }
    map = TRY(serialize_map(kernel, edition, tracking, scratch));
    if (map_at.raw) abi_write(kernel.machine.ram, map_at, map.first().raw, "kho.root.preserved-memory-map");
    if (edition.exported_control)
        for (const Subtree& subtree : subtrees) TRY(write_subtree(subtree.name, subtree.fdt));
    TRY(code(writer->end_node()));
    return code(writer->finish());
}

Result<> Kho::State::finalize() {
    if (!enabled) return fail(edition.exported_control ? Errno::eopnotsupp : Errno::enoent);
    if (finalized) return fail(Errno::eexist);
    if (edition.notifier_chain) subtrees.clear();
    writer.emplace(kernel.machine.ram, phys_range(root, page_bytes), "kho.root");
    const auto result =
        under_fault(kernel.machine.faults, FaultPoint::kho_finalize, "", [&] { return write_root(); });
    in_finalize_notification = false;
    writer.reset();
    if (!result) {
        REACHED("kho.finalize.failed");
        kernel.log.err("KHO: Failed to convert KHO state tree: {}", -static_cast<int>(result.error()));
        static_cast<void>(abort_steps());
        withdraw_subtrees();
        kernel.machine.referee.kho_aborted(edition.abort_forgets_tracking);
        return result;
    }
    finalized = true;
    tracking.remember_nothing();  // preserve_folio() looks at `finalized` only where nothing is remembered
    publish_outgoing();
    return {};
}

Result<> Kho::State::abort_steps() {
    tracking.settle();  // a tree that was handed over stale still names the bitmaps
    if (edition.abort_forgets_tracking) tracking.forget();
    free_map(kernel, map);
    if (!edition.notifier_chain) return {};
    const auto called = call_chain(NotifierAction::abort);
    if (!called) {
        REACHED("kho.abort.failed");
        kernel.log.err("KHO: Failed to abort KHO finalization: {}", -static_cast<int>(called.error()));
    }
    return called;
}

void Kho::State::withdraw_subtrees() {
    if (!edition.notifier_chain) return;
    for (const Subtree& subtree : subtrees) withdraw_subtree(subtree.name);
    subtrees.clear();
}

Result<> Kho::State::abort() {
    if (!enabled) return fail(edition.exported_control ? Errno::eopnotsupp : Errno::enoent);
    if (!finalized) return fail(Errno::enoent);
    TRY(abort_steps());
    withdraw_subtrees();
    finalized = false;
    publish_outgoing();
    return {};
}

Result<> Kho::State::call_chain(NotifierAction action) {
    // A member may register or unregister others; those of this call are those from its start.
    const std::vector<ChainEntry> members = chain;
    const std::string_view name = action == NotifierAction::finalize ? "finalize" : "abort";
    Result<> result;
    for (const ChainEntry& member : members) {
        const auto answer = under_fault(kernel.machine.faults, FaultPoint::kho_notifier, name, [&]() -> Result<> {
            const NotifyResult said = member.notifier(action);
            return said.stop ? Result<>(fail(said.error)) : Result<>();
        });
        if (answer) continue;
        result = answer;
        break;
    }
    return result;
}

}  // namespace kexec_sim::kho
