// Preserving, behind the boundary of kho/api.cpp: the checks of an exported function, then tracking.
//
// Order of the checks: finalized (EBUSY), alignment (EINVAL), overlap with scratch (EINVAL with a WARN, in editions
// that look; in the others the block is preserved and the next kernel may overwrite it). Source: Linux 6.16 and 6.18,
// kernel/kexec_handover.c: kho_preserve_folio, kho_preserve_phys, kho_preserve_pages.
#include "kho/state.hpp"
#include "machine/reached.hpp"

namespace kexec_sim::kho {

Result<> Kho::State::check_overlap(PhysRange range) {
    if (!edition.overlap_check || !overlaps_scratch(scratch, range)) return {};
    REACHED("kho.preserve.in_scratch");
    kernel.log.warn_on(
        fmt::format("KHO: preserved memory {:#x}-{:#x} overlaps a scratch area", range.begin.raw, range.end.raw),
        true);
    return fail(Errno::einval);
}

Result<> Kho::State::preserve_block(Folio folio) {
    if (!configured) return fail(Errno::eopnotsupp);
    if (finalized) return fail(Errno::ebusy);
    if (edition.overlap_check) TRY(check_overlap(folio.phys()));
    return tracking.set(folio.pfn, folio.order);
}

Tracking::Run Kho::State::preserve_run(PfnRange run) {
    if (!configured) return {0, Errno::eopnotsupp};
    if (finalized) return {0, Errno::ebusy};
    // The run stops in front of the first page that is refused.
    PfnRange allowed = run;
    Errno refused = Errno::ok;
    if (edition.overlap_check && overlaps_scratch(scratch, run.phys())) {
        allowed.end = run.begin;
        while (!overlaps_scratch(scratch, pfn_range(allowed.end, 1).phys())) allowed.end = allowed.end + 1;
        refused = Errno::einval;
    }
    const Tracking::Run done = tracking.set_pages(allowed);
    if (done.done < allowed.pages()) return done;
    if (refused != Errno::ok) static_cast<void>(check_overlap(pfn_range(allowed.end, 1).phys()));
    return {done.done, refused};
}

Result<> Kho::State::preserve_range(PfnRange range) {
    if (!configured) return fail(Errno::eopnotsupp);
    // kho_preserve_pages() looks for overlap first; kho_preserve_phys() is of editions that do not look.
    TRY(check_overlap(range.phys()));
    if (finalized) return fail(Errno::ebusy);
    return tracking.set_range(range);
}

}  // namespace kexec_sim::kho
