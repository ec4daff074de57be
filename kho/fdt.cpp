#include "kho/fdt.hpp"

#include <algorithm>

#include <cstring>

#include <libfdt.h>

#include "kernel-model/abi_write.hpp"
#include "kernel-model/handed_over.hpp"

namespace kexec_sim::kho {

namespace {

std::span<const std::byte> raw_bytes(const auto& value) { return std::as_bytes(std::span(&value, 1)); }

int length(std::span<const std::byte> value) { return static_cast<int>(value.size()); }

std::vector<std::byte> text_bytes(std::string_view text) {
    std::vector<std::byte> bytes(text.size() + 1);
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
}

}  // namespace

std::string fdt_error_text(int code) { return fdt_strerror(code); }

// --- FdtWriter
// ------------------------------------------------------------------------------------------------------------

FdtWriter::FdtWriter(PhysicalMemory& ram, PhysRange where, std::string prefix)
    : where_(where),
      prefix_(std::move(prefix)),
      fdt_(ram.writable(where)) {}

int FdtWriter::create() {
    int code = fdt_create(fdt_, static_cast<int>(where_.bytes()));
    code |= fdt_finish_reservemap(fdt_);
    return code;
}
int FdtWriter::begin_node(const std::string& name) { return fdt_begin_node(fdt_, name.c_str()); }
int FdtWriter::property(const std::string& name, std::span<const std::byte> value) {
    if (abi_write_dropped(prefix_ + "." + name)) return 0;
    return fdt_property(fdt_, name.c_str(), value.data(), length(value));
}
int FdtWriter::property_text(const std::string& name, std::string_view value) {
    return property(name, text_bytes(value));
}
int FdtWriter::property_u64(const std::string& name, u64 value) { return property(name, raw_bytes(value)); }

int FdtWriter::placeholder(const std::string& name, u64 bytes, PhysAddr& at) {
    void* value = nullptr;
    const int code = fdt_property_placeholder(fdt_, name.c_str(), static_cast<int>(bytes), &value);
    if (code) return code;
    std::memset(value, 0, bytes);
    at = where_.begin + static_cast<u64>(static_cast<std::byte*>(value) - static_cast<std::byte*>(fdt_));
    return 0;
}
int FdtWriter::end_node() { return fdt_end_node(fdt_); }
int FdtWriter::finish() {
    if (abi_write_dropped(prefix_ + ".finish")) return 0;
    const int code = fdt_finish(fdt_);
    return code ? code : fdt_pack(fdt_);
}

// --- FdtEditor
// ------------------------------------------------------------------------------------------------------------

FdtEditor::FdtEditor(PhysicalMemory& ram, PhysRange where, std::string prefix)
    : prefix_(std::move(prefix)),
      fdt_(ram.writable(where)),
      bytes_(static_cast<int>(where.bytes())) {}

int FdtEditor::create_empty() { return fdt_create_empty_tree(fdt_, bytes_); }
int FdtEditor::add_node(int parent, const std::string& name) { return fdt_add_subnode(fdt_, parent, name.c_str()); }
int FdtEditor::set_property(int node, const std::string& name, std::span<const std::byte> value) {
    if (abi_write_dropped(prefix_ + "." + name)) return 0;
    return fdt_setprop(fdt_, node, name.c_str(), value.data(), length(value));
}
int FdtEditor::set_property_text(int node, const std::string& name, std::string_view value) {
    return set_property(node, name, text_bytes(value));
}
int FdtEditor::set_property_u64(int node, const std::string& name, u64 value) {
    return set_property(node, name, raw_bytes(value));
}
int FdtEditor::set_property_in_place(int node, const std::string& name, std::span<const std::byte> value) {
    if (abi_write_dropped(prefix_ + "." + name)) return 0;
    return fdt_setprop_inplace(fdt_, node, name.c_str(), value.data(), length(value));
}
int FdtEditor::set_property_u64_in_place(int node, const std::string& name, u64 value) {
    return set_property_in_place(node, name, raw_bytes(value));
}
int FdtEditor::node_offset(const std::string& path) const { return fdt_path_offset(fdt_, path.c_str()); }

// --- FdtReader
// ------------------------------------------------------------------------------------------------------------

std::expected<FdtReader, int> FdtReader::open(const PhysicalMemory& ram, PhysAddr phys, u64 bytes_max) {
    return open(ram, phys, bytes_max, nullptr);
}
std::expected<FdtReader, int> FdtReader::open(Machine& machine, PhysAddr phys, u64 bytes_max) {
    return open(machine.ram, phys, bytes_max, &machine);
}

std::expected<FdtReader, int> FdtReader::open(const PhysicalMemory& ram, PhysAddr phys, u64 bytes_max,
                                              Machine* reads) {
    if (bytes_max < sizeof(fdt_header) || !ram.contains(phys, sizeof(fdt_header)))
        return std::unexpected(-FDT_ERR_TRUNCATED);
    if (phys.raw % 8) return std::unexpected(-FDT_ERR_ALIGNMENT);
    alignas(8) auto header = ram.read<fdt_header>(phys);  // libfdt looks at the address of what it checks
    const auto words = std::as_writable_bytes(std::span(&header, 1));
    if (reads) visit_read(*reads, "header", words);
    if (const int code = fdt_check_header(&header)) return std::unexpected(code);
    const u64 bytes = fdt_totalsize(&header);
    if (bytes > bytes_max || !ram.contains(phys, bytes)) return std::unexpected(-FDT_ERR_TRUNCATED);
    std::vector<std::byte> blob(bytes);
    ram.read_bytes(phys, blob);
    std::ranges::copy(words, blob.begin());
    return FdtReader(std::move(blob), reads);
}

void FdtReader::visit(const void* value, int bytes, std::string_view name) const {
    if (!reads_ || !value || bytes < 0) return;
    const auto at = static_cast<const std::byte*>(value) - blob_.data();
    visit_read(*reads_, name,
               std::span(blob_).subspan(static_cast<std::size_t>(at), static_cast<std::size_t>(bytes)));
}

int FdtReader::node_offset(const std::string& path) const { return fdt_path_offset(blob_.data(), path.c_str()); }
int FdtReader::subnode(int parent, std::string_view name) const {
    return fdt_subnode_offset_namelen(blob_.data(), parent, name.data(), static_cast<int>(name.size()));
}
int FdtReader::first_subnode(int parent) const { return fdt_first_subnode(blob_.data(), parent); }
int FdtReader::next_subnode(int node) const { return fdt_next_subnode(blob_.data(), node); }
std::string FdtReader::node_name(int node) const {
    int bytes = 0;
    const char* name = fdt_get_name(blob_.data(), node, &bytes);
    return name ? std::string(name, static_cast<std::size_t>(bytes)) : std::string();
}
int FdtReader::check_compatible(int node, const char* compatible) const {
    int bytes = 0;
    const void* value = fdt_getprop(blob_.data(), node, "compatible", &bytes);
    visit(value, bytes, "compatible");
    return fdt_node_check_compatible(blob_.data(), node, compatible);
}

std::optional<std::span<const std::byte>> FdtReader::property(int node, std::string_view name) const {
    int bytes = 0;
    const void* value = fdt_getprop_namelen(blob_.data(), node, name.data(), static_cast<int>(name.size()), &bytes);
    if (!value || bytes < 0) return std::nullopt;
    visit(value, bytes, name);
    return std::span(static_cast<const std::byte*>(value), static_cast<std::size_t>(bytes));
}

std::optional<std::string_view> FdtReader::property_text(int node, std::string_view name) const {
    const auto value = property(node, name);
    if (!value) return std::nullopt;
    const std::string_view text(reinterpret_cast<const char*>(value->data()), value->size());
    const std::size_t end = text.find('\0');
    if (end == std::string_view::npos) return std::nullopt;
    return text.substr(0, end);
}

std::optional<u64> FdtReader::property_u64(int node, std::string_view name) const {
    const auto value = property(node, name);
    if (!value || value->size() != sizeof(u64)) return std::nullopt;
    u64 number = 0;
    std::memcpy(&number, value->data(), sizeof number);
    return number;
}
std::vector<FdtReader::Property> FdtReader::properties(int node) const {
    std::vector<Property> all;
    for (int at = fdt_first_property_offset(blob_.data(), node); at >= 0;
         at = fdt_next_property_offset(blob_.data(), at)) {
        const char* name = nullptr;
        int bytes = 0;
        const void* value = fdt_getprop_by_offset(blob_.data(), at, &name, &bytes);
        if (!value || !name || bytes < 0) break;
        visit(value, bytes, name);
        all.push_back({name, std::span(static_cast<const std::byte*>(value), static_cast<std::size_t>(bytes))});
    }
    return all;
}

}  // namespace kexec_sim::kho
