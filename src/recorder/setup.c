/*
 * What the recorder needs is made by the target itself, in one go: a thread that stands still is sent here
 * (tm_target_run), which costs what two system calls cost that it runs under the tracer's eyes, and there are
 * seven. It says how far it is, and is taken away at the end. Where nobody comes to take it, for the tracer
 * is dead, it gives up after its patience and returns: to the frame by which the kernel gives a thread all
 * its registers back.
 */
#include "recorder/writer.h"

#define SYS_mmap	 9
#define SYS_mprotect	 10
#define SYS_close	 3
#define SYS_madvise	 28
#define SYS_munlock	 150
#define SYS_memfd_create 319

/* <sys/mman.h> and <linux/memfd.h>, of x86-64. */
#define PROT_NONE	0
#define PROT_READ	1
#define PROT_WRITE	2
#define MAP_SHARED	1
#define MAP_NORESERVE	0x4000
#define MADV_DONTFORK	10
#define MADV_DONTDUMP	16
#define MADV_WIPEONFORK 18
#define MFD_CLOEXEC	1

void tm_setup(uint64_t patience);

static int64_t call(int64_t number, uint64_t first, uint64_t second, uint64_t third)
{
	__asm__ volatile("syscall"
			 : "+a"(number)
			 : "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return number;
}

static int64_t map_file(uint64_t file)
{
	register uint64_t flags __asm__("r10") = MAP_SHARED | MAP_NORESERVE, fd __asm__("r8") = file,
				offset __asm__("r9") = 0;
	int64_t result = SYS_mmap;

	__asm__ volatile("syscall"
			 : "+a"(result)
			 : "D"(0), "S"(TM_SHARED_SIZE), "d"(PROT_NONE), "r"(flags), "r"(fd), "r"(offset)
			 : "rcx", "r11", "memory");
	return result;
}

/* Notes the first that fails. */
static bool is_done(struct tm_setup *setup, enum tm_setup_call what, int64_t result)
{
	if (result >= 0 || result <= -4096)
		return true;
	setup->failed = what;
	setup->error = -result;
	return false;
}

/*
 * Mapped without access, the rings are not touched by a target that locks all its memory (mlockall(2),
 * MCL_FUTURE), and are then let go from that. A forked child does not inherit them: its control page is
 * wiped, so that nobody there looks for them. Nor does a core dump, which would touch them all: they are
 * gigabytes.
 */
static bool map_rings(struct tm_setup *setup)
{
	uint64_t place;

	setup->shared = map_file((uint64_t)setup->file);
	place = (uint64_t)setup->shared;
	return is_done(setup, TM_SETUP_MAP, setup->shared) &&
	       is_done(setup, TM_SETUP_UNLOCK, call(SYS_munlock, place, TM_SHARED_SIZE, 0)) &&
	       is_done(setup, TM_SETUP_OPEN,
		       call(SYS_mprotect, place, TM_SHARED_SIZE, PROT_READ | PROT_WRITE)) &&
	       is_done(setup, TM_SETUP_NO_FORK, call(SYS_madvise, place, TM_SHARED_SIZE, MADV_DONTFORK)) &&
	       is_done(setup, TM_SETUP_NO_DUMP, call(SYS_madvise, place, TM_SHARED_SIZE, MADV_DONTDUMP));
}

static bool make_file(struct tm_setup *setup)
{
	const char name[] = {'t', 'm', 't', 'r', 'a', 'c', 'e', 0};

	setup->file = call(SYS_memfd_create, (uint64_t)name, MFD_CLOEXEC, 0);
	return is_done(setup, TM_SETUP_FILE, setup->file);
}

static bool make_all(struct tm_setup *setup)
{
	return is_done(setup, TM_SETUP_WIPE,
		       call(SYS_madvise, (uint64_t)control, TM_CONTROL_SIZE, MADV_WIPEONFORK)) &&
	       make_file(setup) && map_rings(setup);
}

static void await(const uint32_t *word, uint32_t at_least, uint64_t patience)
{
	uint64_t begin = time_stamp();

	while (__atomic_load_n(word, __ATOMIC_ACQUIRE) < at_least && time_stamp() - begin < patience)
		relax();
}

/* patience: in ticks of the time stamp counter, at each stage. */
ENTRY void tm_setup(uint64_t patience)
{
	struct tm_setup *setup = &control->setup;

	setup->file = -1;
	make_all(setup);
	__atomic_store_n(&setup->stage, TM_SETUP_MADE, __ATOMIC_RELEASE);
	await(&setup->go, TM_SETUP_MADE, patience);
	if (setup->file >= 0)
		call(SYS_close, (uint64_t)setup->file, 0, 0);
	__atomic_store_n(&setup->stage, TM_SETUP_CLOSED, __ATOMIC_RELEASE);
	await(&setup->go, TM_SETUP_CLOSED, patience);
}

/* What its return address is: rt_sigreturn(2). */
__asm__("	.text\n"
	"	.globl tm_setup_return\n"
	"	.hidden tm_setup_return\n"
	"tm_setup_return:\n"
	"	mov $15, %eax\n"
	"	syscall\n");
