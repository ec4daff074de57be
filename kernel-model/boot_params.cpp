#include "kernel-model/boot_params.hpp"

#include <algorithm>
#include <cstring>

namespace kexec_sim {
namespace {

/// The boot page, as it lies in RAM.
struct BootPage {
    u64 magic;
    u64 cmdline_phys, cmdline_bytes;  // without the closing zero
    u64 setup_data;                   // physical address of the first entry, 0: none
    u64 initrd_begin, initrd_end;
    u64 kernel_begin, kernel_end;
    u64 entries;  // of the memory map, which follows
};
static_assert(sizeof(BootPage) == 72);

struct MapEntry {
    u64 begin, end, type;
};
static_assert(sizeof(MapEntry) == 24);

struct SetupDataHeader {
    u64 next;
    u32 type, bytes;
};
static_assert(sizeof(SetupDataHeader) == setup_data_header_bytes);

constexpr u64 boot_magic = 0x313030544f4f4253;  // "SBOOT001"
constexpr u64 entries_max = (page_bytes - sizeof(BootPage)) / sizeof(MapEntry);
constexpr u64 setup_data_bytes_max = 64 * KiB;
constexpr unsigned setup_data_count_max = 64;
constexpr u64 part_align = 16;
static_assert(memory_map_entries_max <= entries_max);

/// Appends to the image of the boot range and knows at which physical address each part comes to lie.
class Writer {
public:
    explicit Writer(PhysRange where) : where_(where), bytes_(page_bytes) {}
    PhysAddr next() const { return where_.begin + bytes_.size(); }
    PhysAddr append(const void* data, u64 bytes) {
        const PhysAddr at = next();
        const auto* from = static_cast<const std::byte*>(data);
        bytes_.insert(bytes_.end(), from, from + bytes);
        return at;
    }
    void align() { bytes_.resize(align_up(bytes_.size(), part_align)); }
    template <typename T> void put(u64 offset, const T& value) {
        std::memcpy(bytes_.data() + offset, &value, sizeof value);
    }
    bool fits() const { return bytes_.size() <= where_.bytes(); }
    std::vector<std::byte> take() { return std::move(bytes_); }

private:
    PhysRange where_;
    std::vector<std::byte> bytes_;
};

/// Appends the list of entries; returns the address of the first, 0 if there is none.
u64 append_setup_data(Writer& writer, const std::vector<SetupData>& list) {
    u64 first = 0;
    for (std::size_t i = 0; i < list.size(); ++i) {
        writer.align();
        const u64 payload = list[i].payload.size();
        const u64 following = align_up(writer.next().raw + sizeof(SetupDataHeader) + payload, part_align);
        const SetupDataHeader header{i + 1 < list.size() ? following : 0, list[i].type, static_cast<u32>(payload)};
        const PhysAddr at = writer.append(&header, sizeof header);
        writer.append(list[i].payload.data(), payload);
        if (i == 0) first = at.raw;
    }
    return first;
}

std::string read_cmdline(const PhysicalMemory& ram, const BootPage& page) {
    if (page.cmdline_bytes == 0 || page.cmdline_bytes > cmdline_bytes_max) return {};
    if (!ram.contains(PhysAddr{page.cmdline_phys}, page.cmdline_bytes)) return {};
    std::string cmdline(page.cmdline_bytes, '\0');
    ram.read_bytes(PhysAddr{page.cmdline_phys}, std::as_writable_bytes(std::span(cmdline)));
    cmdline.resize(std::min(cmdline.find('\0'), cmdline.size()));
    return cmdline;
}

std::vector<SetupData> read_setup_data(const PhysicalMemory& ram, u64 first) {
    std::vector<SetupData> list;
    for (u64 at = first; at != 0 && list.size() < setup_data_count_max;) {
        if (!ram.contains(PhysAddr{at}, sizeof(SetupDataHeader))) break;
        const auto header = ram.read<SetupDataHeader>(PhysAddr{at});
        const PhysAddr payload{at + sizeof header};
        if (header.bytes > setup_data_bytes_max || !ram.contains(payload, header.bytes))
            list.push_back({header.type, {}, PhysAddr{at}, header.bytes});
        else
            list.push_back({header.type, ram.read_vector(payload, header.bytes), PhysAddr{at}});
        at = header.next;
    }
    return list;
}

PhysRange checked_range(u64 begin, u64 end) {
    return begin < end ? PhysRange{PhysAddr{begin}, PhysAddr{end}} : PhysRange{};
}

}  // namespace

Result<std::vector<std::byte>> encode_boot_params(PhysRange where, const BootParams& params) {
    INVARIANT(where.begin.page_aligned());
    // What reading would refuse is not written.
    if (params.memory_map.size() > entries_max) return fail(Errno::enospc);
    if (params.cmdline.size() > cmdline_bytes_max) return fail(Errno::enospc);
    if (params.setup_data.size() > setup_data_count_max) return fail(Errno::enospc);
    for (const SetupData& data : params.setup_data)
        if (data.payload.size() > setup_data_bytes_max) return fail(Errno::enospc);

    Writer writer(where);
    BootPage page{};
    page.magic = boot_magic;
    page.cmdline_phys = writer.append(params.cmdline.c_str(), params.cmdline.size() + 1).raw;
    page.cmdline_bytes = params.cmdline.size();
    page.setup_data = append_setup_data(writer, params.setup_data);
    page.initrd_begin = params.initrd.begin.raw;
    page.initrd_end = params.initrd.end.raw;
    page.kernel_begin = params.kernel_image.begin.raw;
    page.kernel_end = params.kernel_image.end.raw;
    page.entries = params.memory_map.size();
    writer.put(0, page);
    for (std::size_t i = 0; i < params.memory_map.size(); ++i) {
        const MemoryMapEntry& entry = params.memory_map[i];
        writer.put(sizeof page + i * sizeof(MapEntry),
                   MapEntry{entry.range.begin.raw, entry.range.end.raw, static_cast<u64>(entry.type)});
    }
    if (!writer.fits()) return fail(Errno::enospc);
    return writer.take();
}

Result<> write_boot_params(PhysicalMemory& ram, PhysRange where, const BootParams& params) {
    const std::vector<std::byte> bytes = TRY(encode_boot_params(where, params));
    ram.zero(where);
    ram.write_bytes(where.begin, bytes);
    return {};
}

BootParams read_boot_params(const PhysicalMemory& ram, PhysRange where) {
    BootParams params;
    params.boot_data = where;
    if (where.bytes() < page_bytes || !ram.contains(where)) return params;
    const auto page = ram.read<BootPage>(where.begin);
    if (page.magic != boot_magic) return params;
    params.cmdline = read_cmdline(ram, page);
    params.setup_data = read_setup_data(ram, page.setup_data);
    params.initrd = checked_range(page.initrd_begin, page.initrd_end);
    params.kernel_image = checked_range(page.kernel_begin, page.kernel_end);
    for (u64 i = 0; i < std::min(page.entries, entries_max); ++i) {
        const auto entry = ram.read<MapEntry>(where.begin + (sizeof page + i * sizeof(MapEntry)));
        const PhysRange range = checked_range(entry.begin, entry.end);
        if (range.empty()) continue;
        const bool usable = entry.type == static_cast<u64>(MemoryType::ram);
        params.memory_map.push_back({range, usable ? MemoryType::ram : MemoryType::reserved});
    }
    return params;
}

}  // namespace kexec_sim
