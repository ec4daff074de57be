// The reference of kernels that have KHO and no orchestrator: 6.16 and 6.18. Two folios of order 0; consumers preserve
// and restore them, debugfs finalizes and aborts.
#include "sim/generate/reference.hpp"

#include <algorithm>

namespace kexec_sim::sim::generate {
namespace {

constexpr Profiles linux_6_16 = profile_bit(Profile::linux_6_16), linux_6_18 = profile_bit(Profile::linux_6_18);
constexpr Profiles both = linux_6_16 | linux_6_18;

constexpr std::string_view functions = "KHO v1, functions";
constexpr std::string_view restoring = "KHO v1, restore semantics";
constexpr std::string_view finalizing = "KHO v1, finalize and abort";
constexpr std::string_view debugfs = "KHO v1, debugfs";
constexpr std::string_view handing_over = "KHO v1, handing over to the next kernel";

bool always(const World&, const Letter&) { return true; }
bool finalized(const World& world, const Letter&) { return world.finalized; }
bool not_finalized(const World& world, const Letter&) { return !world.finalized; }
bool no_image(const World& world, const Letter& letter) {
    return letter.action == Action::exec && !world.image_loaded;
}

World::Folio& folio_of(World& world, const Letter& letter) {
    return world.folios.at(static_cast<std::size_t>(letter.folio));
}
const World::Folio& folio_of(const World& world, const Letter& letter) {
    return world.folios.at(static_cast<std::size_t>(letter.folio));
}
bool foreign(const World& world, const Letter& letter) { return !folio_of(world, letter).owned; }

void load(World& world, const Letter&) {
    world.image_loaded = true;
    world.image_hands_over = world.finalized;
}

void jump(World& world, bool handed_over) {
    World next = next_kernel(world);
    next.folios.resize(world.folios.size());
    for (std::size_t at = 0; at < world.folios.size(); ++at) {
        const bool promised = world.finalized && world.folios[at].preserved;
        next.folios[at] = {.owned = false, .came = handed_over && promised};
        if (promised && !handed_over) next.findings.insert("loss.silent");
    }
    world = std::move(next);
}
void jump_over(World& world, const Letter&) { jump(world, true); }
void plain_jump(World& world, const Letter&) { jump(world, false); }

/// `kexec` loads first where nothing is loaded; then the image is one of now.
bool image_hands_over(const World& world, const Letter& letter) {
    const bool loads = letter.action == Action::kexec && !world.image_loaded;
    return loads ? world.finalized : world.image_hands_over;
}

void add_folios(std::vector<Row>& rows) {
    rows.push_back({Action::kho_preserve, both, "KHO is finalized", finalized, "EBUSY", "", nullptr, functions});
    rows.push_back({Action::kho_preserve, both, "the folio is not the caller's in this kernel", foreign, unspecified,
                    "", nullptr, functions});
    rows.push_back({Action::kho_preserve, both, "else", always, "ok", "it is in the map",
                    [](World& world, const Letter& letter) { folio_of(world, letter).preserved = true; }, functions});
    rows.push_back(
        {Action::kho_unpreserve, both, "always: not exported", always, "EOPNOTSUPP", "", nullptr, functions});
    rows.push_back({Action::kho_restore, both, "it came, and was not restored yet",
                    [](const World& world, const Letter& letter) {
                        return folio_of(world, letter).came && !folio_of(world, letter).restored;
                    },
                    "ok", "it is the caller's, with its content",
                    [](World& world, const Letter& letter) {
                        folio_of(world, letter).restored = folio_of(world, letter).owned = true;
                    },
                    restoring});
    rows.push_back({Action::kho_restore, linux_6_18, "else", always, "ENOENT", "", nullptr, restoring});
    rows.push_back({Action::kho_restore, linux_6_16, "it came, and was restored before",
                    [](const World& world, const Letter& letter) { return folio_of(world, letter).came; }, "ok",
                    "a frame has two owners, unnoticed",
                    [](World& world, const Letter&) {
                        world.findings.insert("frame.once");
                        world.undefined = true;
                    },
                    restoring});
    rows.push_back(
        {Action::kho_restore, linux_6_16, "else: undetected", always, unspecified, "", nullptr, restoring});
}

void add_finalize(std::vector<Row>& rows) {
    rows.push_back({Action::kho_finalize, both, "KHO is finalized", finalized, "EEXIST", "", nullptr, debugfs});
    rows.push_back({Action::kho_finalize, both, "else", always, "ok", "the root tree is written",
                    [](World& world, const Letter&) {
                        world.finalized = true;
                        world.stale_root = false;
                    },
                    finalizing});
    rows.push_back({Action::kho_abort, both, "KHO is not finalized", not_finalized, "ENOENT", "", nullptr, debugfs});
    rows.push_back({Action::kho_abort, both, "else", always, "ok", "all that was preserved is forgotten",
                    [](World& world, const Letter&) {
                        world.finalized = false;
                        world.stale_root = true;
                        for (World::Folio& folio : world.folios) folio.preserved = false;
                    },
                    finalizing});
}

void add_reboot(std::vector<Row>& rows) {
    rows.push_back({Action::load, both, "always", always, "ok", "an image is loaded", load, handing_over});
    for (const Action action : {Action::exec, Action::kexec}) {
        if (action == Action::exec)
            rows.push_back({action, both, "no image is loaded", no_image, "EINVAL", "", nullptr, handing_over});
        rows.push_back({action, linux_6_18, "KHO was not finalized when the image was loaded",
                        [](const World& world, const Letter& letter) { return !image_hands_over(world, letter); },
                        "ok", "nothing is handed over", plain_jump, handing_over});
        rows.push_back({action, both, "the root tree of an aborted handover is stale",
                        [](const World& world, const Letter&) { return world.stale_root; }, unspecified, "", nullptr,
                        handing_over});
        rows.push_back({action, linux_6_16, "KHO is not finalized", not_finalized, "ok",
                        "the next kernel refuses the root tree", plain_jump, handing_over});
        rows.push_back(
            {action, both, "else", always, "ok", "what is in the map is handed over", jump_over, handing_over});
    }
}

}  // namespace

void add_kho_rows(std::vector<Row>& rows) {
    add_folios(rows);
    add_finalize(rows);
    add_reboot(rows);
}

}  // namespace kexec_sim::sim::generate
