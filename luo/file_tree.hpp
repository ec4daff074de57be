// The tree of file descriptors: one node for each preserved file (luo/abi/trees.hpp shows it).
//
// It is made for a number of files and never grows: the block that holds it is preserved as a whole, and handles are
// written in place. An incoming tree is data of the previous kernel: names, tokens and lengths are checked before use.
#pragma once

#include <expected>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernel-model/kernel.hpp"
#include "kho/fdt.hpp"
#include "kho/kho.hpp"

namespace kexec_sim::luo {

/// Token 42 is "0x2a": the name of its node, in messages and in the trace.
std::string token_name(u64 token);
/// Hexadecimal with 0x, octal with 0, else decimal; nullopt: something else, or too large.
std::optional<u64> parse_token(std::string_view name);

class FileTree {
public:
    FileTree(Kernel& kernel, kho::Kho& kho) : kernel_(kernel), kho_(kho) {}

    // --- outgoing ---
    /// `files`: token and handler's compatible, ascending. `log` gets what to print. ENOMEM, EBUSY, ENOSPC.
    Result<> build(const std::map<u64, std::string>& files, std::string& log);
    /// Overwrites the handle of one file. A negative libfdt code, or 0.
    int write_data(u64 token, u64 data);
    void remove_node(u64 token);
    /// Unpreserves and frees the block.
    void destroy();
    bool exists() const { return block_.has_value(); }
    PhysAddr phys() const { return block_ ? block_->pfn.phys() : PhysAddr{}; }

    // --- incoming ---
    /// 0, 1 (another compatible) or a negative libfdt code.
    int adopt(PhysAddr phys, bool by_kernel = true);
    bool incoming() const { return reader_.has_value(); }
    struct Node {
        std::string name;  // empty: unreadable
        std::optional<std::string> compatible;
        std::optional<u64> data;
    };
    std::vector<Node> nodes() const;
    /// FINISH is through: the block is overhead, or (strict) goes back to the allocator.
    void release_incoming(bool strict);

private:
    Result<> write(const std::map<u64, std::string>& files, std::string& log);
    int write_node(kho::FdtWriter& writer, u64 token, const std::string& compatible, Errno& fault);

    Kernel& kernel_;
    kho::Kho& kho_;
    std::optional<Folio> block_;
    std::optional<kho::FdtReader> reader_;
    PhysAddr incoming_{};
};

/// The block of a tree that the previous kernel handed over and nobody restores: overhead, or (strict) restored and
/// freed.
void release_incoming_block(Kernel& kernel, kho::Kho& kho, PhysAddr phys, std::string_view who, std::string_view site,
                            bool strict);

}  // namespace kexec_sim::luo
