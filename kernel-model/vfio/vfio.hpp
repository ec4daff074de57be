// vfio-pci: a PCI function in the hands of user space.
//
//   agent ── fd ──► VfioFile ──► PciDevice     BARs and config space by read and write, MSI-X vectors as callbacks
//                     │                        (an eventfd's place), reset, attachment to a domain of an iommufd
//                     └── IommufdFile (attach)
//
// Opening binds the driver to the function (its own driver, if it has one, lets go first) and resets it, so that the
// new owner finds a known state. Closing turns interrupts off, takes the function out of its domain and resets it
// again. A function that was preserved by the previous kernel is neither reset nor to be had by opening: only the file
// handler that restores it can make its file (adopt).
//
// Removal of an open function does what closing does, preserved or not; to close what is left of it does nothing more.
//
// Frozen: no access but close works (EIO); what a preserved file is between freeze and the jump.
//
// Shutdown for kexec: a function that is kept running is left alone; another one that is open is reset.
//
// Unhappy paths: 1. EBUSY: open already, or incoming. 2. ENODEV: gone, or no endpoint. 3. EIO: frozen; the function
// does not answer. 4. EINVAL: more vectors than there are, offset beyond the BAR. 5. ENOSPC: vectors or remapping
// entries.
// Source: Linux 7.3, drivers/vfio/pci; the series "vfio/pci: Base Live Update support for VFIO".
// Simplified: config space is passed through as it is; one owner, no groups.
#pragma once

#include <functional>
#include <map>
#include <optional>

#include "kernel-model/pci/pci.hpp"
#include "kernel-model/vfs.hpp"

namespace kexec_sim {

class IommufdFile;

class VfioFile final : public File {
public:
    VfioFile(Kernel& kernel, u64 id, PciDevice& device);
    ~VfioFile() override;
    std::string_view kind() const override { return "vfio-pci"; }
    void release() override;

    PciDevice& device() { return *device_; }
    const PciDevice& device() const { return *device_; }
    /// The function behind it is still the one that was opened.
    bool present() const { return !device_->removed; }
    /// Interrupts off, out of its domain, reset, no bus master: what closing does, and removal.
    void let_go();

    Result<u64> read(unsigned bar, u64 offset, unsigned bytes) const;
    Result<> write(unsigned bar, u64 offset, unsigned bytes, u64 value);
    Result<> reset();

    /// VFIO_DEVICE_SET_IRQS: MSI-X with `vectors` vectors, each calling `trigger(vector)`; the table is written while
    /// masked, then the function is unmasked (what was pending arrives) and MSI-X enabled. On failure what was set up
    /// before stays.
    Result<> enable_interrupts(u16 vectors, std::function<void(u16)> trigger);
    void disable_interrupts();
    /// The function mask of MSI-X: messages wait in the pending bits.
    Result<> mask_interrupts(bool masked);
    /// MSI-X enabled and not masked.
    bool interrupts_on() const;
    u16 interrupt_vectors() const { return vectors_; }

    void set_frozen(bool frozen) { frozen_ = frozen; }
    bool frozen() const { return frozen_; }
    /// Is preserved for the next kernel: release leaves the function alone.
    bool preserved = false;
    std::weak_ptr<IommufdFile> iommufd;  // that it is attached through

private:
    friend class Vfio;
    u32 msix_flags() const;
    void set_msix_flags(u32 flags);
    Result<> usable() const;
    struct Vector {
        u8 vector;
        std::optional<u16> remapped;
    };
    Result<std::vector<Vector>> allocate_vectors(u16 count, const std::function<void(u16)>& trigger);
    void write_vector(u16 index, const Vector& vector);
    void free_vectors(std::vector<Vector>& vectors);
    Result<PhysAddr> bar_address(unsigned bar, u64 offset, unsigned bytes) const;

    Kernel& kernel_;
    PciDevice* device_;
    bool frozen_ = false;
    u16 vectors_ = 0;
    std::vector<Vector> allocated_;
};

class Vfio {
public:
    explicit Vfio(Kernel& kernel);
    /// EBUSY, ENODEV, EMFILE is the caller's.
    Result<std::shared_ptr<VfioFile>> open(PciDevice& device);
    /// A file for a function that runs already: nothing is reset or written. EBUSY, ENODEV.
    Result<std::shared_ptr<VfioFile>> adopt(PciDevice& device);
    std::shared_ptr<VfioFile> file_of(const PciDevice& device) const;
    /// Stops a function that nobody has: blocked before it is reset, so that nothing of it arrives in memory that is
    /// going to be somebody else's.
    void quiesce(PciDevice& device);

private:
    friend class VfioFile;
    Result<std::shared_ptr<VfioFile>> make_file(PciDevice& device);
    Kernel& kernel_;
    std::map<PciAddress, std::weak_ptr<VfioFile>> open_;
};

}  // namespace kexec_sim
