#include "kho/scratch.hpp"

#include <algorithm>
#include <array>
#include <charconv>

#include "kho/abi/kho_v1.hpp"

namespace kexec_sim::kho {

namespace {

/// kstrtouint() as far as it concerns a percentage: decimal digits only, with an optional plus sign.
Result<u32> parse_percent(std::string_view digits) {
    if (digits.starts_with('+')) digits.remove_prefix(1);
    u32 value = 0;
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, value);
    if (error == std::errc::result_out_of_range) return fail(Errno::erange);
    if (error != std::errc{} || stop != end) return fail(Errno::einval);
    return value;
}

Result<> parse_scale(std::string_view value, ScratchParams& params, KernelLog& log) {
    // The kernel's buffer holds ten digits, the sign of percent and nothing else.
    constexpr std::size_t chars_max = 11;
    if (value.size() > chars_max) return fail(Errno::einval);
    params.scale = TRY(parse_percent(value.substr(0, value.size() - 1)));
    log.info("KHO: scratch scale is {}%", params.scale);
    return {};
}

u64 percent_of(u64 bytes, u64 scale) { return bytes * scale / 100; }

struct Sizes {
    u64 lowmem = 0, global = 0;
};
Sizes sizes_without_node(Kernel& kernel, const ScratchParams& params) {
    if (params.scale == 0) return {params.lowmem, params.global};
    const Memblock& memblock = kernel.memblock;
    const u64 low = percent_of(memblock.reserved_kern_bytes(PhysAddr{4 * GiB - 1}, std::nullopt), params.scale);
    const u64 all = percent_of(memblock.reserved_kern_bytes(PhysAddr{~u64{0}}, std::nullopt), params.scale);
    // KB-align: whole pages will do.
    const u64 align = kernel.config.mutant(Mutant::kb_align) ? page_bytes : scratch_align;
    Sizes sizes;
    sizes.lowmem = align_up(low, align);
    if (all >= sizes.lowmem) {
        sizes.global = align_up(all - sizes.lowmem, align);
    } else {
        // Where all memory lies below 4 GiB: lowmem was rounded up, and the rest is less than nothing.
        kernel.machine.trace.emit(Layer::kho, "kho.scratch_clamped",
                                  {{"lowmem_bytes", sizes.lowmem}, {"all_bytes", all}});
    }
    return sizes;
}

/// Reserves area after area and gives all back unless commit() is called.
class Reserver {
public:
    explicit Reserver(Memblock& memblock) : memblock_(memblock) {}
    ~Reserver() {
        if (!committed_)
            for (auto range = done_.rbegin(); range != done_.rend(); ++range)
                if (!range->empty()) memblock_.free(*range);
    }
    Reserver(const Reserver&) = delete;
    Reserver& operator=(const Reserver&) = delete;

    Result<PhysRange> take(Memblock::Request request) {
        if (request.bytes == 0) return empty_area(request);
        const PhysRange range = TRY(memblock_.alloc(request));
        done_.push_back(range);
        return range;
    }
    void commit() { committed_ = true; }

private:
    /// An area of size 0 has an address like any other, the highest that is free, and fails where there is none.
    Result<PhysRange> empty_area(const Memblock::Request& request) const {
        std::optional<PhysAddr> highest;
        memblock_.for_each_free([&](PhysRange free, Nid nid) {
            if (request.exact_nid && nid != request.nid) return;
            const PhysAddr at{align_down(std::min(free.end, request.max).raw, request.align)};
            if (free.begin <= at) highest = at;
        });
        if (!highest) return fail(Errno::enomem);
        return PhysRange{*highest, *highest};
    }

    Memblock& memblock_;
    std::vector<PhysRange> done_;
    bool committed_ = false;
};

}  // namespace

Result<> parse_scratch(std::string_view value, const Edition& edition, ScratchParams& params, KernelLog& log) {
    if (value.empty()) return fail(Errno::einval);
    if (value.back() == '%') return parse_scale(value, params, log);

    std::array<u64, 3> sizes{};
    for (std::size_t i = 0; i < sizes.size(); ++i) {
        if (i > 0) {
            if (!value.starts_with(',')) return fail(Errno::einval);
            value.remove_prefix(1);
        }
        std::string_view rest;
        sizes[i] = TRY(parse_size_param(value, &rest));
        if (sizes[i] == 0 && !edition.scratch_zero_component) return fail(Errno::einval);
        value = rest;
    }
    if (edition.scratch_trailing_error && !value.empty()) return fail(Errno::einval);
    if (sizes == std::array<u64, 3>{}) return fail(Errno::einval);
    params = {.scale = 0, .lowmem = sizes[0], .global = sizes[1], .pernode = sizes[2]};
    log.info("KHO: scratch areas: lowmem: {}MiB global: {}MiB pernode: {}MiB", sizes[0] / MiB, sizes[1] / MiB,
             sizes[2] / MiB);
    return {};
}

unsigned online_nodes(const Kernel& kernel) {
    return kernel.config.numa ? std::max(kernel.machine.node_count, 1u) : 1;
}

Result<ScratchReservation> reserve_scratch(Kernel& kernel, const ScratchParams& params) {
    Memblock& memblock = kernel.memblock;
    Reserver reserver(memblock);
    const Sizes sizes = sizes_without_node(kernel, params);
    const unsigned nodes = online_nodes(kernel);
    const u64 array_bytes = (nodes + 2) * sizeof(abi::kho_scratch);

    ScratchReservation reservation;
    reservation.array = TRY(reserver.take({.bytes = array_bytes, .site = scratch_array_site}));
    reservation.areas.push_back(TRY(reserver.take(
        {.bytes = sizes.lowmem, .align = scratch_align, .max = PhysAddr{4 * GiB}, .site = scratch_site})));
    reservation.areas.push_back(
        TRY(reserver.take({.bytes = sizes.global, .align = scratch_align, .site = scratch_site})));
    for (unsigned node = 0; node < nodes; ++node) {
        const Nid nid{static_cast<i32>(node)};
        Memblock::Request request{.align = scratch_align, .site = scratch_site};
        if (kernel.config.numa) {
            request.nid = nid;
            request.exact_nid = true;
        }
        const u64 bytes = params.scale
                              ? percent_of(memblock.reserved_kern_bytes(PhysAddr{~u64{0}}, nid), params.scale)
                              : params.pernode;
        request.bytes = align_up(bytes, scratch_align);
        reservation.areas.push_back(TRY(reserver.take(request)));
    }
    reserver.commit();
    return reservation;
}

}  // namespace kexec_sim::kho
