// The LUO tree: what is written for the next kernel, and what the previous one wrote (luo/abi/trees.hpp shows it).
//
//   build    a page, an empty tree, the node of the subsystems with a zero for each, preserved, told to KHO
//   commit   the handles, in place
//   destroy  build backwards
//
// The page of an incoming tree stays reserved to the end of this kernel: the protocol never returns it (overhead). With
// `defects: strict` FINISH does.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "kho/fdt.hpp"
#include "kho/kho.hpp"
#include "luo/edition.hpp"
#include "luo/subsystem.hpp"

namespace kexec_sim::luo {

class Tree {
public:
    Tree(Kernel& kernel, kho::Kho& kho, const Edition& edition) : kernel_(kernel), kho_(kho), edition_(edition) {}

    // --- outgoing ---
    /// ENOMEM, ENOSPC, or what KHO says. A failure leaves nothing behind.
    Result<> build(std::span<Subsystem* const> subsystems);
    /// Writes every private_data. ENOENT.
    Result<> commit(std::span<Subsystem* const> subsystems);
    /// Unpreserves the page, takes the sub-tree back, frees the page.
    void destroy();
    /// Forgets the page, which stays preserved and allocated (LUO-D5); it counts as overhead from now on.
    void leak();
    bool exists() const { return page_.has_value(); }
    PhysAddr page() const { return page_ ? page_->phys() : PhysAddr{}; }

    // --- incoming ---
    /// Checks the tree at `phys`. Panics if it is none.
    void adopt(PhysAddr phys);
    bool incoming() const { return reader_.has_value(); }
    /// The handle of a subsystem; `why` gets libfdt's words if there is none.
    std::optional<u64> incoming_data(const std::string& name, std::string* why = nullptr) const;
    /// FINISH is through: the page is overhead, or (strict) goes back to the allocator.
    void release_incoming(bool strict);

private:
    Result<> write(std::span<Subsystem* const> subsystems);
    Result<> write_subsystems(kho::FdtEditor& editor, std::span<Subsystem* const> subsystems);
    Result<> setup_failed(int code);

    Kernel& kernel_;
    kho::Kho& kho_;
    const Edition& edition_;
    std::optional<Pfn> page_;
    std::optional<kho::FdtReader> reader_;
    PhysAddr incoming_page_{};
};

/// One visit of luo.fdt_write. True: write; false: pretend to; an errno: the write fails.
Result<bool> fdt_write_permitted(Machine& machine, std::string_view name);

}  // namespace kexec_sim::luo
