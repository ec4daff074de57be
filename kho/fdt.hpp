// Flattened devicetrees in simulated RAM, through libfdt.
//
// Kernels write their trees in place, in pages that the successor reads at the same address. Hence three ways to use
// one:
//
//   FdtWriter   sequential: header, nodes and properties from first to last; invalid until finish()
//   FdtEditor   read-write: an empty tree that fills its page, then nodes and properties in any order
//   FdtReader   a tree that somebody else wrote, perhaps with a broken pen
//
// Errors are libfdt's: 0 or a negative code, and a sequence of calls ORs its codes, as the kernel does. Such a value
// leaves a kernel function as if it were an errno (fdt_errno()): -3, "no space", arrives as ESRCH.
//
// FdtReader works on a copy of the blob that is exactly as long as its header says and lies inside RAM, so libfdt's own
// checks, which compare against the header, keep every access inside the copy.
//
// Every write has a name ("kho.root.compatible": the prefix given, then the property) for kernel-model/abi_write.hpp.
#pragma once

#include <expected>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "machine/machine.hpp"
#include "machine/result.hpp"

namespace kexec_sim::kho {

/// The errno that a negative libfdt code looks like once a kernel function has returned it.
inline Errno fdt_errno(int code) { return static_cast<Errno>(-code); }
/// libfdt's own words for a code ("FDT_ERR_NOSPACE").
std::string fdt_error_text(int code);

class FdtWriter {
public:
    /// `where`: the page or pages; nothing is written before create(). `prefix`: of the names of writes.
    FdtWriter(PhysicalMemory& ram, PhysRange where, std::string prefix);
    int create();  // header and empty reserve map
    int begin_node(const std::string& name);
    int property(const std::string& name, std::span<const std::byte> value);
    int property_text(const std::string& name, std::string_view value);  // with its zero
    int property_u64(const std::string& name, u64 value);                // raw, host order
    /// Room for `bytes`, zeroed; `at` gets where the value lies in RAM.
    int placeholder(const std::string& name, u64 bytes, PhysAddr& at);
    int end_node();
    /// Closes the tree and packs it: header, reserve map at 0x28, structure at 0x38, strings.
    int finish();

private:
    PhysRange where_;
    std::string prefix_;
    void* fdt_;
};

class FdtEditor {
public:
    /// `where` must hold a tree already, or create_empty() be called first.
    FdtEditor(PhysicalMemory& ram, PhysRange where, std::string prefix);
    int create_empty();
    int add_node(int parent, const std::string& name);  // offset, or a negative code
    int set_property(int node, const std::string& name, std::span<const std::byte> value);
    int set_property_text(int node, const std::string& name, std::string_view value);
    int set_property_u64(int node, const std::string& name, u64 value);
    /// Overwrites a value of the same length where it stands.
    int set_property_in_place(int node, const std::string& name, std::span<const std::byte> value);
    int set_property_u64_in_place(int node, const std::string& name, u64 value);
    int node_offset(const std::string& path) const;  // "/subsystems"

private:
    std::string prefix_;
    void* fdt_;
    int bytes_;
};

class FdtReader {
public:
    /// The tree at `phys`, of at most `bytes_max` bytes. A negative code: outside RAM or shorter than a header
    /// (FDT_ERR_TRUNCATED), no valid header (fdt_check_header's).
    static std::expected<FdtReader, int> open(const PhysicalMemory& ram, PhysAddr phys, u64 bytes_max = 4 * MiB);
    /// As the running kernel reads it: the header and each property are fault points (kernel-model/handed_over.hpp).
    static std::expected<FdtReader, int> open(Machine& machine, PhysAddr phys, u64 bytes_max = 4 * MiB);

    u64 bytes() const { return blob_.size(); }
    std::span<const std::byte> blob() const { return blob_; }
    static constexpr int root = 0;
    int node_offset(const std::string& path) const;
    /// Offset of a direct child, or a negative code (FDT_ERR_NOTFOUND, FDT_ERR_BADSTRUCTURE, …).
    int subnode(int parent, std::string_view name) const;
    /// Children in order; a negative code ends it.
    int first_subnode(int parent) const;
    int next_subnode(int node) const;
    std::string node_name(int node) const;  // empty if it cannot be read
    /// 0: the node's `compatible` has that string; 1: it has others; negative: a code.
    int check_compatible(int node, const char* compatible) const;
    std::optional<std::span<const std::byte>> property(int node, std::string_view name) const;
    /// A string property, up to its zero; nullopt if there is none inside it.
    std::optional<std::string_view> property_text(int node, std::string_view name) const;
    std::optional<u64> property_u64(int node, std::string_view name) const;  // 8 bytes, raw
    struct Property {
        std::string name;
        std::span<const std::byte> value;
    };
    std::vector<Property> properties(int node) const;

private:
    FdtReader(std::vector<std::byte> blob, Machine* reads) : blob_(std::move(blob)), reads_(reads) {}
    static std::expected<FdtReader, int> open(const PhysicalMemory& ram, PhysAddr phys, u64 bytes_max,
                                              Machine* reads);
    void visit(const void* value, int bytes, std::string_view name) const;

    mutable std::vector<std::byte> blob_;  // what was read; a fault of a read changes it
    Machine* reads_ = nullptr;             // of the kernel that reads; nullptr: an instrument
};

}  // namespace kexec_sim::kho
