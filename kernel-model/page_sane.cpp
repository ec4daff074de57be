// check_sane(): A1 to A3 of page_alloc.hpp, told to the referee where they do not hold; and the law of allocation
// accounting: for each site, pages handed out and restored, less those that came back, are the pages in use.
#include <algorithm>

#include "kernel-model/page_alloc_impl.hpp"

namespace kexec_sim {
namespace {

/// What is wrong with one run's metadata by itself; empty: nothing (A3).
std::string_view wrong_with(const PageMeta& meta) {
    switch (meta.state) {
    case PageState::absent: return {};
    case PageState::reserved:
    case PageState::preserved: return meta.pins ? "a reserved page is pinned" : std::string_view{};
    case PageState::free:
        if (meta.refcount) return "a free page has references";
        return meta.pins ? "a free page is pinned" : std::string_view{};
    case PageState::folio:
        if (meta.refcount < 1) return "a folio in use has no reference";
        if (meta.raw_tails) return "the tail pages of a folio have references, and no link to its head";
        return {};
    }
    return "a page is in no known state";
}

}  // namespace

void PageAllocator::check_sane(bool everything) {
    Referee& referee = machine_.referee;
    std::vector<PfnRange> ranges;
    if (everything)
        for (const Impl::Span& span : impl_->spans) ranges.push_back(span.frames);
    else
        ranges.swap(impl_->touched);
    impl_->touched.clear();
    for (const Impl::Node& node : impl_->nodes)
        for (const MigrateType type : {MigrateType::unmovable, MigrateType::movable, MigrateType::cma})
            if (node.buddy.count(type) != node.buddy.free(type))
                referee.kernel_insane(
                    fmt::format("node {}: {} frames are on the free lists of migrate type {}, the counter says {}",
                                node.nid.raw, node.buddy.count(type), static_cast<int>(type), node.buddy.free(type)),
                    std::nullopt);
    // What was handed out or restored and has not come back is live; so it cannot be less than nothing.
    for (const Impl::Site& site : impl_->sites)
        if (site.live < 0)
            referee.kernel_insane(
                fmt::format("{} has {} pages by allocation accounting: more were freed than were ever "
                            "allocated or restored",
                            site.name, site.live),
                std::nullopt);
    u64 free_by_metadata = 0;
    std::vector<i64> in_use(everything ? impl_->sites.size() : 0);
    const auto check_run = [&](Pfn begin, u64 blocks, const PageMeta& meta) {
        const PfnRange run = pfn_range(begin, blocks << meta.order.raw);
        if (const std::string_view wrong = wrong_with(meta); !wrong.empty())
            referee.kernel_insane(
                fmt::format("{} (pfn {:#x}, references {}, pins {})", wrong, begin.raw, meta.refcount, meta.pins),
                run);
        if (meta.state == PageState::free) free_by_metadata += run.pages();
        if (everything && meta.state == PageState::folio) in_use.at(meta.site) += static_cast<i64>(run.pages());
        impl_->for_each_part(run, [&](Impl::Node& node, PfnRange part, MigrateType type) {
            if (meta.order.raw == 0 && meta.cma != (type == MigrateType::cma))
                referee.kernel_insane("a page's CMA flag differs from its pageblock's type", part);
            const u64 on_lists = node.buddy.free_in(part, type);
            const u64 expected = meta.state == PageState::free ? part.pages() : 0;
            if (on_lists != expected)
                referee.kernel_insane(
                    fmt::format("{} of {} frames from pfn {:#x} are on a free list, their metadata says {}", on_lists,
                                part.pages(), part.begin.raw, expected ? "free" : "in use"),
                    part);
        });
    };
    for (const PfnRange& range : ranges) map_.for_each_run(range, check_run);
    for (std::size_t i = 0; i < in_use.size(); ++i)
        if (in_use[i] != impl_->sites[i].live)
            referee.kernel_insane(fmt::format("{} has {} pages by allocation accounting, {} by their metadata",
                                              impl_->sites[i].name, impl_->sites[i].live, in_use[i]),
                                  std::nullopt);
    if (everything && free_by_metadata != free_frames())
        referee.kernel_insane(fmt::format("{} frames are free by their metadata, {} are on the free lists",
                                          free_by_metadata, free_frames()),
                              std::nullopt);
}

}  // namespace kexec_sim
