/*
 * What the recorder needs is made by the target itself, in one go: a thread that stands still is sent here
 * (tm_target_begin_routine), which costs what two system calls cost that it runs under the tracer's eyes, and
 * there are nine or more. It says how far it is, and is taken away at the end. Where nobody comes to take it,
 * for the tracer is dead, it gives up after its patience and returns: to the frame by which the kernel gives
 * a thread all its registers back.
 */
#include "recorder/guard.h"
#include "recorder/writer.h"

#define SYS_mmap	 9
#define SYS_mprotect	 10
#define SYS_close	 3
#define SYS_madvise	 28
#define SYS_munmap	 11
#define SYS_munlock	 150
#define SYS_memfd_create 319

/* <sys/mman.h> and <linux/memfd.h>, of x86-64. */
#define PROT_NONE	0
#define PROT_READ	1
#define PROT_WRITE	2
#define PROT_EXEC	4
#define MAP_SHARED	1
#define MAP_PRIVATE	2
#define MAP_ANONYMOUS	0x20
#define MAP_NORESERVE	0x4000
#define MADV_DONTFORK	10
#define MADV_DONTDUMP	16
#define MADV_WIPEONFORK 18
#define MFD_CLOEXEC	1

/* Linux 4.17; an older kernel takes the address as a hint. */
#define MAP_FIXED_NOREPLACE 0x100000

void tm_setup_made(uint64_t patience) __attribute__((used));

static int64_t call(int64_t number, uint64_t first, uint64_t second, uint64_t third)
{
	__asm__ volatile("syscall"
			 : "+a"(number)
			 : "D"(first), "S"(second), "d"(third)
			 : "rcx", "r11", "memory");
	return number;
}

static int64_t map(uint64_t place, uint64_t size, uint64_t protection, uint64_t how, uint64_t file)
{
	register uint64_t flags __asm__("r10") = how, fd __asm__("r8") = file, offset __asm__("r9") = 0;
	int64_t result = SYS_mmap;

	__asm__ volatile("syscall"
			 : "+a"(result)
			 : "D"(place), "S"(size), "d"(protection), "r"(flags), "r"(fd), "r"(offset)
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

	setup->shared = map(0, TM_SHARED_SIZE, PROT_NONE, MAP_SHARED | MAP_NORESERVE, (uint64_t)setup->file);
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

/* Before the kernel chooses the place of anything else. Where they cannot be, they are asked for again where
   they are needed. */
static void map_pages(struct tm_setup_pages *pages)
{
	pages->result = map(pages->place, pages->size, PROT_READ | PROT_EXEC,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, UINT64_MAX);
	if (pages->result > 0 && (uint64_t)pages->result != pages->place) {
		call(SYS_munmap, (uint64_t)pages->result, pages->size, 0);
		pages->result = 0;
	}
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
void tm_setup_made(uint64_t patience)
{
	struct tm_setup *setup = &control->setup;

	setup->file = -1;
	for (uint32_t i = 0; i < TM_SETUP_PAGES && setup->pages[i].size; i++)
		map_pages(&setup->pages[i]);
	make_all(setup);
	__atomic_store_n(&setup->stage, TM_SETUP_MADE, __ATOMIC_RELEASE);
	await(&setup->go, TM_SETUP_MADE, patience);
	if (setup->file >= 0)
		call(SYS_close, (uint64_t)setup->file, 0, 0);
	__atomic_store_n(&setup->stage, TM_SETUP_CLOSED, __ATOMIC_RELEASE);
	await(&setup->go, TM_SETUP_CLOSED, patience);
}

/* Bytes behind the code. */
extern const uint64_t tm_setup_behind __attribute__((visibility("hidden")));
const uint64_t tm_setup_behind = TM_CONTROL_SIZE + TM_GUARD_SIZE;

/*
 * The region was mapped in one piece, as code: what is behind the code is made writable first, without a
 * stack, for that is there. Where it cannot be, the thread goes back at once.
 *
 * tm_setup_return is what the return address is: rt_sigreturn(2), with the stack pointer behind that.
 */
__asm__("	.text\n"
	"	.globl tm_setup\n"
	"	.hidden tm_setup\n"
	"tm_setup:\n"
	"	mov %rdi, %r8\n"
	"	lea tm_recorder_control(%rip), %rdi\n"
	"	mov tm_setup_behind(%rip), %rsi\n"
	"	mov $3, %edx\n"	 /* PROT_READ | PROT_WRITE */
	"	mov $10, %eax\n" /* mprotect */
	"	syscall\n"
	"	mov %r8, %rdi\n"
	"	test %rax, %rax\n"
	"	jz tm_setup_made\n"
	"	add $8, %rsp\n"
	"	.globl tm_setup_return\n"
	"	.hidden tm_setup_return\n"
	"tm_setup_return:\n"
	"	mov $15, %eax\n"
	"	syscall\n");
