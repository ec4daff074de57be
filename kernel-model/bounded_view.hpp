// A view of handed-over memory that knows where it ends.
//
// Code that walks a structure which another kernel wrote reads it through a view of the pages that it is made of. A read
// beyond them gives what is there, as in a real kernel, and the referee is told (abi.bounded).
#pragma once

#include "kernel-model/handed_over.hpp"

namespace kexec_sim {

class BoundedView {
public:
    /// `what`: of the structure, for the message ("a vmalloc chunk"); `name`: at its fault point. `range` lies in RAM.
    BoundedView(Machine& machine, PhysRange range, std::string_view what, std::string_view name)
        : machine_(machine),
          range_(range),
          what_(what),
          name_(name) {}
    template <typename T> T read(u64 offset) const {
        const PhysRange where = phys_range(range_.begin + offset, sizeof(T));
        if (!range_.contains(where)) [[unlikely]] {
            machine_.referee.read_beyond(range_, where.begin, what_);
            if (!machine_.ram.contains(where)) return T{};
        }
        return read_handed_over<T>(machine_, where.begin, name_);
    }

private:
    Machine& machine_;
    PhysRange range_;
    std::string_view what_, name_;
};

}  // namespace kexec_sim
