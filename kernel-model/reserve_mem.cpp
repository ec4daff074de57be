#include "kernel-model/reserve_mem.hpp"

#include <algorithm>
#include <bit>

#include "kernel-model/kernel.hpp"

namespace kexec_sim {
namespace {

constexpr std::size_t entries_max = 8;      // RESERVE_MEM_MAX_ENTRIES
constexpr std::size_t name_bytes_max = 15;  // RESERVE_MEM_NAME_SIZE, without its zero
constexpr u64 align_min = 64;               // SMP_CACHE_BYTES
constexpr std::string_view site = "reserve_mem";

}  // namespace

Result<> ReserveMem::parse(std::string_view value) {
    if (value.empty()) return fail(Errno::einval);
    if (entries_.size() >= entries_max) return fail(Errno::ebusy);

    std::string_view rest;
    const u64 bytes = TRY(parse_size_param(value, &rest));
    if (bytes == 0) return fail(Errno::einval);
    if (!rest.starts_with(':')) return fail(Errno::einval);
    rest.remove_prefix(1);
    u64 align = 0;
    // An empty alignment is 0, as memparse() has it.
    if (!rest.starts_with(':')) align = TRY(parse_size_param(rest, &rest));
    if (!rest.starts_with(':')) return fail(Errno::einval);
    align = std::max(align, align_min);
    if (!std::has_single_bit(align)) return fail(Errno::einval);

    const std::string_view name = rest.substr(1);
    if (name.size() > name_bytes_max) return fail(Errno::einval);
    if (name.find_first_not_of(" \t\n\v\f\r") == std::string_view::npos) return fail(Errno::einval);
    if (find(name)) return fail(Errno::ebusy);
    entries_.push_back({std::string(name), bytes, align, {}, false});
    return {};
}

void ReserveMem::allocate_all() {
    std::vector<Entry> kept;
    for (Entry& entry : entries_) {
        if (const auto range = revive ? revive(entry) : std::nullopt) {
            kernel_.memblock.reserve(*range, nid_none, site);
            entry.range = *range;
            entry.revived = true;
        } else {
            const auto fresh = kernel_.memblock.alloc({.bytes = entry.bytes, .align = entry.align, .site = site});
            if (!fresh) {
                kernel_.machine.trace.emit(
                    Layer::kernel, "reserve_mem.failed",
                    {{"name", entry.name}, {"bytes", entry.bytes}, {"result", -static_cast<i32>(fresh.error())}});
                continue;
            }
            entry.range = *fresh;
        }
        kernel_.machine.trace.emit(Layer::kernel, "reserve_mem.allocate",
                                   {{"name", entry.name},
                                    {"phys", entry.range.begin},
                                    {"bytes", entry.bytes},
                                    {"revived", u64{entry.revived}}});
        kernel_.machine.referee.reserve_mem_allocated(entry.name, entry.range);
        kept.push_back(std::move(entry));
    }
    entries_ = std::move(kept);
}

const ReserveMem::Entry* ReserveMem::find(std::string_view name) const {
    const auto found = std::ranges::find(entries_, name, &Entry::name);
    return found == entries_.end() ? nullptr : &*found;
}

}  // namespace kexec_sim
